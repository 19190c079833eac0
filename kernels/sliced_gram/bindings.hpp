#pragma once

#include <nanobind/nanobind.h>

void bind_sliced_gram(nanobind::module_& m);
