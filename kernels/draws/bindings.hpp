#pragma once

#include <nanobind/nanobind.h>

void bind_draws(nanobind::module_& m);
