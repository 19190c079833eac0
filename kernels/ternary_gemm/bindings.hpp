#pragma once

#include <nanobind/nanobind.h>

void bind_ternary_gemm(nanobind::module_& m);
