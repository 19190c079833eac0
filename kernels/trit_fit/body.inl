// Everything that is compiled once for each instruction set, in a namespace of its own.

#include "lanes.inl"
#include "levels.inl"
#include "search.inl"
#include "assign.inl"
#include "algorithm1.inl"
#include "feedback.inl"

Fitted fit(float* scales, std::uint8_t* ratio, const float* weights, const float* importance,
                         Shape shape, Ratios ratios, int starts) {
    switch (shape.planes) {
        case 1: return fit_rows<1>(scales, ratio, weights, importance, shape, ratios, starts);
        case 2: return fit_rows<2>(scales, ratio, weights, importance, shape, ratios, starts);
        default: return fit_rows<3>(scales, ratio, weights, importance, shape, ratios, starts);
    }
}

Assigned assign(std::int8_t* trits, const float* weights, const float* scales, Shape shape) {
    switch (shape.planes) {
        case 1: return assign_rows<1>(trits, weights, scales, shape);
        case 2: return assign_rows<2>(trits, weights, scales, shape);
        default: return assign_rows<3>(trits, weights, scales, shape);
    }
}

void feedback(std::int8_t* trits, float* error, float* weights, const float* factor,
                            const float* scales, const std::int32_t* group_of, Shape shape,
                            std::size_t groups) {
    switch (shape.planes) {
        case 1: return feedback_rows<1>(trits, error, weights, factor, scales, group_of, shape, groups);
        case 2: return feedback_rows<2>(trits, error, weights, factor, scales, group_of, shape, groups);
        default: return feedback_rows<3>(trits, error, weights, factor, scales, group_of, shape, groups);
    }
}

double algorithm1_step(double* scales, std::int8_t* trits, const float* weights, Shape shape) {
    return step_rows(scales, trits, weights, shape);
}
