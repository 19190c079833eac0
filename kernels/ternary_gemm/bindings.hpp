#pragma once

#include <nanobind/nanobind.h>

namespace weightsmith::ternary {

void bind(nanobind::module_& m);

}  // namespace weightsmith::ternary
