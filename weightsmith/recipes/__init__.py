"""Recipe files: what they ask for, as an operator and the addresses of its inputs."""
