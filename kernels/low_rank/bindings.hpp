#pragma once

#include <nanobind/nanobind.h>

void bind_low_rank(nanobind::module_& m);
