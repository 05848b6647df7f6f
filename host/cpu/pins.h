// Everything that decides bits on the CPU, in one place. A change here, or of anything that this
// page describes, raises the project's numerics_version.
//
//  - Chains. Every sum of products is one chain acc = fma(a_k, b_k, acc) in a fixed order that is
//    a function of the op's shape alone. A chain starts from -0, the neutral element of IEEE
//    addition: its first link is then exactly the product, and a chain without terms is -0.
//      * dense forward: k ascending, in blocks of kChainBlock terms, block sums added in order.
//      * dense data gradient: n ascending, in the same blocks.
//      * dense weight gradient: rows of the partition ascending.
//      * conv forward: (kh, kw, ci) ascending; taps outside of the image are left out.
//      * conv data gradient: (oy, ox, co) ascending; likewise.
//      * conv weight gradient: a row's (oy, ox) ascending; likewise. Then rows of the partition are
//        added in order, the first copied.
//      * conv with groups or dilation: the same orders, ci and co within the group.
//      * bias gradient: dense: rows added in order. conv: a row's pixels (oy, ox) added in order,
//        then rows.
//    Partitions are combined in the order of the tree: left + right, an empty child passes the
//    other through. Bias is added after the chain, then the activation.
//      * matrices: k ascending, one chain.
//      * gathered sums with factors: the first product, then fma in the list's order.
//    Sums of a channel (its terms are features, by rising f) over the rows of a partition: in a row
//    blocks of kSumBlock terms, each begun with -0, block sums added in order; then rows in order.
//      * batch normalization. In a row, each block's squared deviations are taken from its own mean
//        and joined as Chan et al. do (1979), the row's then moved to the partition's mean:
//        + terms (sum / terms - mean)^2. y = fma(x - mean, deviation gamma, beta);
//        dx = deviation gamma fma(mean - x, b, dy - a), where a = sum(dy) / n,
//        b = deviation (deviation sum(dy (x - mean))) / n, the last sum by fma.
//    An embedding's gradient starts from +0 in each partition.
//  - relu(x) is 0 > x ? 0 : x (NaN passes). A relu mask keeps where y > 0, else +0.
//  - Max pooling keeps the first of equal maxima; dx starts from +0 and takes windows in order
//    (oy, ox).
//  - softmax: e_i = exp(z_i - max), divided by the sum of e_i in order; exp and log are those of
//    host/core/math.h (kMathVersion).
//  - adam: m = fma(g - m, a, m); v = fma(g*g - v, b, v); w = w - (m*alpha) / (sqrt(v) + epsilon).
//    sgd: m = momentum*m - lr*g; w = w + m, nesterov: w = w + (momentum*m - lr*g), each product
//    rounded; without momentum (0): w = w - lr*g.
//  - -ffp-contract=off and no -ffast-math: an FMA is where the source says fma, nowhere else.
//  - MXCSR as below. One thread a kernel. No autotuning: blocking never changes an order.
#pragma once

#include <cstdint>

namespace lockstep::cpu {

// Terms of a dense chain before it is added to the total; keeps the error of long sums small.
inline constexpr int kChainBlock = 256;

// Terms of a channel in a row that are added before they are added to others.
inline constexpr int kSumBlock = 32;

// Round to nearest, all exceptions masked, flush-to-zero and denormals-are-zero off.
inline constexpr uint32_t kMxcsr = 0x1f80;

}  // namespace lockstep::cpu
