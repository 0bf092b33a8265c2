/* Reaches the exponential of the cross-entropy, for the plainest machine and for this one. */
#include "base/base.h"
#include "train/exp.h"

void probe_exp(size_t n, const float *from, float *to);
void probe_exp_clones(size_t n, const float *from, float *to);

void probe_exp(size_t n, const float *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = exp_not_positive(from[i]);
}

ANE_CLONES void probe_exp_clones(size_t n, const float *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = exp_not_positive(from[i]);
}
