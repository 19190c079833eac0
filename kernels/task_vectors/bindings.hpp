#pragma once

#include <nanobind/nanobind.h>

void bind_task_vectors(nanobind::module_& m);
