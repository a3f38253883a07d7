// What a program is made of: steps, each a kind and its fields, over one arena of floats and integers of four bytes.
//
// A map (C, H, W) of a batch lies in groups of examples, of which a group's lie side by side: lane b of position
// (c, h, w) of group n is at at + n * group + c * channel + h * row + w * step + b. Lanes that hold no example hold
// anything finite; what would let them into a sum over examples leaves them out. Around a map there may be a halo of zeros, which convolutions read. Places and
// distances count elements of four bytes. fedprune/native/steps.py has the same fields in the same order.
#pragma once

#include <cstdint>

namespace fedprune {

using i64 = std::int64_t;

struct Map {
    i64 at, channel, row, step, group;
};

struct Size {
    i64 channels, height, width;
};

struct Clip {
    double low, high;
};

// y[r, h, w] = clip(bias[r] + sum over entries k of row r of weights[index[k]] * x[offsets[k] + h * x.row + w * x.step])
struct Gather {
    Map y, x;
    Size size;                                  // rows, height, width of y
    i64 blocks, starts;                         // entries lie by blocks and rows: (blocks, rows), and the end
    i64 offsets, index, weights, bias;          // index and bias: -1 is none
    i64 accumulate;
    i64 sums, shift;  // -1, or where sums of y - shift and of its square go, a lane each: (groups, rows, 2, lanes)
    Clip clip;
};

// The same where all rows of a group have the same offsets: weight of entry k in row r is at bases[k] + r * weight_row.
struct DenseGather {
    Map y, x;
    Size size;  // rows of one group
    i64 groups, x_group, weight_group;
    i64 entries, offsets, bases, weight_row, weights, bias;
    i64 accumulate;
    i64 sums, shift;
    Clip clip;
};

// gradient[k] += sum over examples, in their order, of the sum over positions of g[r, h, w] * x[offsets[k] + ...]
struct WeightGradient {
    Map g, x;
    Size size;
    i64 starts, offsets, gradient;
    i64 partial;   // (entries, lanes of a vector) where a map is read in bands
    i64 band;      // rows of a map at a time
};

struct DenseWeightGradient {
    Map g, x;
    Size size;  // rows of one group
    i64 groups, x_group;
    i64 entries, offsets, gradient;
    i64 partial, band;
};

// gradient[r] += sum over examples and positions of g
struct BiasGradient {
    Map g;
    Size size;
    i64 gradient;
};

// sums of x - shift and of its square, a lane each: (groups, channels, 2, lanes)
struct Sums {
    Map x;
    Size size;
    i64 sums, shift;
};

// mean and 1 / sqrt(variance + epsilon) of what sums are of; running statistics move by momentum, where there are any
struct Statistics {
    i64 channels, positions, sums, shift;
    i64 mean, inverse;
    i64 running_mean, running_variance;  // -1: they stay
    double epsilon, momentum;
};

// 1 / sqrt(variance + epsilon) of running statistics, which a norm at rest goes by
struct AtRest {
    i64 channels, running_mean, running_variance, mean, inverse;
    double epsilon;
};

// y = clip((x - mean) * inverse * weight + bias + other), and its halo 0
struct Normalise {
    Map x, y, other;  // other.at -1: none
    Size size;
    i64 rows, columns;                // of y's halo
    i64 mean, inverse, weight, bias;  // weight and bias: -1 is none
    Clip clip;
};

// g becomes the gradient of x from that of y, and its halo 0; that of other is added to, or set
struct NormaliseBack {
    Map x, y, g, other;               // y.at -1: nothing was added, so that x tells which values were clipped
    Size size;
    i64 rows, columns;  // of g's halo
    i64 mean, inverse, weight, bias, weight_gradient, bias_gradient;
    i64 at_rest, other_accumulate;
    Clip clip;
};

// g = 0 where y is at a bound of the clip
struct ClipBack {
    Map y, g;
    Size size;
    Clip clip;
};

// y = f(x), and gx = g f'(x); f is a number of Function
struct Unary {
    Map x, y;
    Size size;
    i64 function;
    Clip clip;
};

struct UnaryBack {
    Map x, y, g, gx;
    Size size;
    i64 function, accumulate;
    Clip clip;
};

enum Function { CLIP = 0, SIGMOID = 1, HARD_SWISH = 2, TANH = 3 };

// y = clip(a + b) or clip(a * b); b may be one value a channel
struct Binary {
    Map a, b, y;
    Size size;
    i64 multiply, b_alone;
    Clip clip;
};

// ga (+)= g * b, gb (+)= g * a, summed over positions where b is one value a channel
struct MultiplyBack {
    Map a, b, g, ga, gb;
    Size size;
    i64 b_alone, a_accumulate, b_accumulate;
};

struct Pool {
    Map x, y;
    Size size;                               // of y
    i64 x_height, x_width;
    i64 kernel_rows, kernel_columns, stride_rows, stride_columns, top, left;
    i64 largest;                             // else the mean, of all cells of the window
    Clip clip;
};

struct PoolBack {
    Map x, y, g, gx;
    Size size;
    i64 x_height, x_width;
    i64 kernel_rows, kernel_columns, stride_rows, stride_columns, top, left;
    i64 largest;
};

// y (+)= x
struct Copy {
    Map x, y;
    Size size;
    i64 accumulate;
};

// Zero a map and its halo: count elements.
struct Zero {
    i64 at, count;
};

// The halo of zeros around a map: rows above and below, columns left and right.
struct Halo {
    i64 at;
    Size size;
    i64 rows, columns;
};

// losses[b] of each example; gradient of logits, times scale
struct CrossEntropy {
    Map logits, gradient;
    i64 classes, labels, losses, scale;  // scale: where it is
    double smoothing;
};

// the mean over outputs of (logit - target)^2
struct SquaredError {
    Map outputs, gradient;
    Size size;
    i64 targets, losses, scale;
};

// y (+)= x * scale where a word that is drawn for the element, or for its channel, is at least so much, else 0
struct Drop {
    Map x, y;
    Size size;
    i64 drawn;  // key in two words, and the place of the arena's first example in its batch
    i64 layer, whole, least, accumulate;
    i64 first;  // example of a group in the arena
    double scale;
};

enum Kind {
    GATHER, DENSE_GATHER, WEIGHT_GRADIENT, DENSE_WEIGHT_GRADIENT, BIAS_GRADIENT, SUMS, STATISTICS, AT_REST, NORMALISE,
    NORMALISE_BACK, CLIP_BACK, UNARY, UNARY_BACK, BINARY, MULTIPLY_BACK, POOL, POOL_BACK, COPY, ZERO, HALO,
    CROSS_ENTROPY, SQUARED_ERROR, DROP, KINDS
};

constexpr i64 FIELDS = 40;  // of a step, its kind first
constexpr i64 LAYOUT = 6;   // another number whenever anything above is another

struct Batch {
    float* arena;
    i64 lanes;     // of a group: 8 or 16
    i64 examples;  // in the lanes from the first on, group by group
    int threads;
};

// Call act(what, from, to) for parts of 0..count, in as many threads. It is compiled for any processor, as what it is
// made of is the same code for all instruction sets.
void in_parallel(int threads, i64 count, void (*act)(const void*, i64, i64), const void* what);

// Run steps over an arena; each instruction set has one of these.
using Run = void (*)(const Batch&, const i64* steps, i64 count);

}  // namespace fedprune
