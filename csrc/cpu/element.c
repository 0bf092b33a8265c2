/* element.c: from ops to elementwise instructions, and their evaluation. elements.def is the table.
 */
#include "element.h"

#include "numeric.h"

#define TYPE_f float
#define TYPE_i int32_t

mil_cell mil_element_scalar(const mil_element *element, mil_cell first, mil_cell second,
                            mil_cell third) {
    const float *p = element->parameter;
    mil_cell out = {0};
    switch (element->code) {
#define ELEMENT(name, operands, R, A, B, C, expression)                                            \
    case MIL_CODE_##name: {                                                                        \
        TYPE_##A a = first.A;                                                                      \
        TYPE_##B b = second.B;                                                                     \
        TYPE_##C c = third.C;                                                                      \
        (void)a, (void)b, (void)c, (void)p;                                                        \
        out.R = (expression);                                                                      \
        break;                                                                                     \
    }
#include "elements.def"
#undef ELEMENT
    case MIL_CODE_COUNT:
        break;
    }
    if (element->rounds) out.f = ane_float_from_half(ane_half_from_float(out.f));
    return out;
}

/* Loops with one, two and three operands. Two operands have a loop for each of the usual steps;
 * what repeats is loaded once. */
#define LOOP_1(R, A, B, C, expression)                                                             \
    for (size_t i = 0; i < n; i++) {                                                               \
        TYPE_##A a = x[i].A;                                                                       \
        y[i].R = (expression);                                                                     \
    }
#define LOOP_2(R, A, B, C, expression)                                                             \
    if (x_step && z_step) {                                                                        \
        for (size_t i = 0; i < n; i++) {                                                           \
            TYPE_##A a = x[i].A;                                                                   \
            TYPE_##B b = z[i].B;                                                                   \
            y[i].R = (expression);                                                                 \
        }                                                                                          \
    } else if (x_step) {                                                                           \
        TYPE_##B b = z[0].B;                                                                       \
        for (size_t i = 0; i < n; i++) {                                                           \
            TYPE_##A a = x[i].A;                                                                   \
            y[i].R = (expression);                                                                 \
        }                                                                                          \
    } else {                                                                                       \
        TYPE_##A a = x[0].A;                                                                       \
        for (size_t i = 0; i < n; i++) {                                                           \
            TYPE_##B b = z[i * z_step].B;                                                          \
            y[i].R = (expression);                                                                 \
        }                                                                                          \
    }
#define LOOP_3(R, A, B, C, expression)                                                             \
    for (size_t i = 0; i < n; i++) {                                                               \
        TYPE_##A a = x[i * x_step].A;                                                              \
        TYPE_##B b = z[i * z_step].B;                                                              \
        TYPE_##C c = w[i * w_step].C;                                                              \
        y[i].R = (expression);                                                                     \
    }

ANE_CLONES
static void run(const mil_element *element, size_t n, const mil_stretch *operands, mil_cell *y) {
    const float p[2] = {element->parameter[0], element->parameter[1]};
    const mil_cell *x = operands[0].cells, *z = operands[1].cells, *w = operands[2].cells;
    size_t x_step = operands[0].step, z_step = operands[1].step, w_step = operands[2].step;
    (void)p;
    switch (element->code) {
#define ELEMENT(name, operands, R, A, B, C, expression)                                            \
    case MIL_CODE_##name: {                                                                        \
        LOOP_##operands(R, A, B, C, expression) break;                                             \
    }
#include "elements.def"
#undef ELEMENT
    case MIL_CODE_COUNT:
        break;
    }
}

void mil_element_run(const mil_element *element, size_t n, const mil_stretch *operands,
                     mil_cell *out) {
    run(element, n, operands, out);
    if (element->rounds) ane_round_to_half(n, &out->f);
}

/* --- which instruction an op is --- */

static mil_code binary_code(mil_kind kind, bool is_float) {
    switch (kind) {
    case MIL_OP_add:
        return is_float ? MIL_CODE_ADD : MIL_CODE_INT_ADD;
    case MIL_OP_sub:
        return is_float ? MIL_CODE_SUB : MIL_CODE_INT_SUB;
    case MIL_OP_mul:
        return is_float ? MIL_CODE_MUL : MIL_CODE_INT_MUL;
    case MIL_OP_real_div:
        return is_float ? MIL_CODE_DIV : MIL_CODE_INT_DIV;
    case MIL_OP_maximum:
        return is_float ? MIL_CODE_MAXIMUM : MIL_CODE_INT_MAXIMUM;
    case MIL_OP_minimum:
        return is_float ? MIL_CODE_MINIMUM : MIL_CODE_INT_MINIMUM;
    default:
        return is_float ? MIL_CODE_POW : MIL_CODE_INT_POW;
    }
}

static mil_code unary_code(mil_kind kind) {
    switch (kind) {
    case MIL_OP_sigmoid:
        return MIL_CODE_SIGMOID;
    case MIL_OP_silu:
        return MIL_CODE_SILU;
    case MIL_OP_tanh:
        return MIL_CODE_TANH;
    case MIL_OP_relu:
        return MIL_CODE_RELU;
    case MIL_OP_exp:
        return MIL_CODE_EXP;
    case MIL_OP_log:
        return MIL_CODE_LOG;
    case MIL_OP_sqrt:
        return MIL_CODE_SQRT;
    case MIL_OP_rsqrt:
        return MIL_CODE_RSQRT;
    default:
        return MIL_CODE_SQUARE;
    }
}

/* The range of an integer type, as floats: those of 32 bits and more are kept in int32. */
static void integer_range(mil_dtype dtype, float *range) {
    static const float ranges[][2] = {
        [MIL_INT8] = {-128.0f, 127.0f},
        [MIL_UINT8] = {0.0f, 255.0f},
        [MIL_INT16] = {-32768.0f, 32767.0f},
        [MIL_UINT16] = {0.0f, 65535.0f},
    };
    bool narrow = dtype >= MIL_INT8 && dtype <= MIL_UINT16;
    bool is_unsigned = dtype == MIL_UINT32 || dtype == MIL_UINT64;
    range[0] = narrow ? ranges[dtype][0] : is_unsigned ? 0.0f : -0x1p31f;
    range[1] = narrow ? ranges[dtype][1] : 0x1p31f;
}

static mil_code narrowing_code(mil_dtype to) {
    switch (to) {
    case MIL_INT8:
        return MIL_CODE_INT8_FROM_INT;
    case MIL_UINT8:
        return MIL_CODE_UINT8_FROM_INT;
    case MIL_INT16:
        return MIL_CODE_INT16_FROM_INT;
    case MIL_UINT16:
        return MIL_CODE_UINT16_FROM_INT;
    case MIL_BOOL:
        return MIL_CODE_BOOL_FROM_INT;
    default:
        return MIL_CODE_INT_COPY;
    }
}

static mil_code cast_code(mil_dtype from, mil_dtype to) {
    if (mil_is_float(from) && mil_is_float(to)) return MIL_CODE_COPY;
    if (mil_is_float(to)) return MIL_CODE_FLOAT_FROM_INT;
    if (!mil_is_float(from)) return narrowing_code(to);
    return to == MIL_BOOL ? MIL_CODE_BOOL_FROM_FLOAT : MIL_CODE_INT_FROM_FLOAT;
}

/* epsilon of log and rsqrt: what is absent is the op's default, which fp16 cannot hold. */
static float epsilon_of(const mil_program *program, const mil_op *op) {
    if (op->kind != MIL_OP_log && op->kind != MIL_OP_rsqrt) return 0.0f;
    if (op->inputs[1] != MIL_NONE) return program->values[op->inputs[1]].floats[0];
    if (program->values[op->outputs[0]].type.dtype == MIL_FP16) return 0.0f;
    return op->kind == MIL_OP_log ? 1e-45f : 1e-12f;
}

static size_t axis_of(const mil_program *program, size_t slot_value) {
    return slot_value == MIL_NONE ? MIL_NONE : (size_t)program->values[slot_value].ints[0];
}

/* The three ops of affine quantization: x, scale and zero point, the latter two along one axis. */
static void bind_affine(const mil_program *program, const mil_op *op, mil_element_op *bound) {
    bool is_constant = op->kind == MIL_OP_constexpr_affine_dequantize;
    size_t scale = op->inputs[is_constant ? 2 : 1], zero = op->inputs[is_constant ? 1 : 2];
    bound->count = 3;
    bound->operands[1] = scale;
    bound->operands[2] = zero;
    bound->axis[1] = bound->axis[2] = axis_of(program, op->inputs[3]);
    bool float_zero = zero != MIL_NONE && mil_is_float(program->values[zero].type.dtype);
    if (op->kind != MIL_OP_quantize) {
        bound->element.code = float_zero ? MIL_CODE_DEQUANTIZE_FLOAT : MIL_CODE_DEQUANTIZE;
        return;
    }
    bound->element.code = MIL_CODE_QUANTIZE;
    integer_range(program->values[op->outputs[0]].type.dtype, bound->element.parameter);
}

static void bind_select(const mil_op *op, mil_element_op *bound) {
    bound->element.code = MIL_CODE_SELECT;
    bound->count = 3;
    bound->operands[1] = op->inputs[1];
    bound->operands[2] = op->inputs[2];
}

static void bind_cast(const mil_program *program, const mil_op *op, mil_element_op *bound) {
    mil_dtype to = program->values[op->outputs[0]].type.dtype;
    bound->element.code = cast_code(program->values[op->inputs[0]].type.dtype, to);
    integer_range(to, bound->element.parameter);
}

mil_element_op mil_element_of(const mil_program *program, const mil_op *op, ane_numerics numerics) {
    const mil_type *type = &program->values[op->outputs[0]].type;
    mil_element_op bound = {.count = 1, .operands = {op->inputs[0], MIL_NONE, MIL_NONE}};
    bound.axis[0] = bound.axis[1] = bound.axis[2] = MIL_NONE;
    bound.element.rounds = type->dtype == MIL_FP16 && numerics != ANE_FP32;
    switch (op->kind) {
    case MIL_OP_cast:
        bind_cast(program, op, &bound);
        break;
    case MIL_OP_select:
        bind_select(op, &bound);
        break;
    case MIL_OP_quantize:
    case MIL_OP_dequantize:
    case MIL_OP_constexpr_affine_dequantize:
        bind_affine(program, op, &bound);
        break;
    case MIL_OP_add:
    case MIL_OP_sub:
    case MIL_OP_mul:
    case MIL_OP_real_div:
    case MIL_OP_maximum:
    case MIL_OP_minimum:
    case MIL_OP_pow:
        bound.element.code = binary_code(op->kind, mil_is_float(type->dtype));
        bound.count = 2;
        bound.operands[1] = op->inputs[1];
        break;
    default:
        bound.element.code = unary_code(op->kind);
        bound.element.parameter[0] = epsilon_of(program, op);
    }
    return bound;
}
