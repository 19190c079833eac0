#pragma once

#include <nanobind/nanobind.h>

void bind_trit_fit(nanobind::module_& m);
