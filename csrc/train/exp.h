/* exp.h: e to the power of a number that is not positive, in fp32, written so that compilers
 * vectorise loops over it. At most 2 units in the last place from the true value. */
#pragma once

#include <stdint.h>
#include <string.h>

/* 2^power for -126 <= power <= 127. */
static inline float exp_power_of_two(int32_t power) {
    uint32_t bits = (uint32_t)(power + 127) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r. Below -104 the result rounds to 0; NaN
 * stays NaN. 2^k is applied in two factors because k goes down to -150. */
static inline float exp_not_positive(float x) {
    const float log2_e = 0x1.715476p0f;
    const float ln2_high = 0x1.62e4p-1f; /* short, so that k * ln2_high is exact */
    const float ln2_low = 0x1.7f7d1cp-20f;
    const float rounder = 0x1.8p23f; /* adding it leaves an integer in the low bits */
    x = x < -104.0f ? -104.0f : x;
    float shifted = x * log2_e + rounder;
    float k = shifted - rounder;
    float r = x - k * ln2_high - k * ln2_low;
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r * r + r;
    int32_t power, bits, zero;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&zero, &rounder, sizeof zero);
    power = x == x ? bits - zero : 0;
    int32_t half = power / 2;
    return (series + 1.0f) * exp_power_of_two(half) * exp_power_of_two(power - half);
}
