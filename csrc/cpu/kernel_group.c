/* kernel_group.c: runs a register program over blocks that stay in the first-level cache. */
#include "kernels.h"

#define BLOCK 512
#define GRAIN 16384 /* elements of a task */
#define CACHE_LINE 64

typedef struct group_run {
    const mil_group *group;
    mil_cell *const *memory;
    size_t inner, blocks_per_row;
} group_run;

/* One block: `n` cells from index `start` of the row whose offsets are given. */
typedef struct block {
    const group_run *run;
    ptrdiff_t rows[MIL_GROUP_MEMORY]; /* offset of the row in each memory operand */
    size_t start, n;
    mil_cell (*registers)[BLOCK];
    mil_cell (*gathered)[BLOCK]; /* one per operand of an instruction */
} block;

static void *block_address(const block *at, size_t memory) {
    const mil_view *view = &at->run->group->memory[memory];
    ptrdiff_t offset = at->rows[memory] + (ptrdiff_t)at->start * view->stride[view->rank - 1];
    ptrdiff_t size = at->run->group->halves[memory] ? sizeof(uint16_t) : sizeof(mil_cell);
    return (char *)at->run->memory[memory] + offset * size;
}

static mil_stretch gather(const mil_cell *from, ptrdiff_t stride, size_t n, mil_cell *to) {
    for (size_t i = 0; i < n; i++) to[i] = from[(ptrdiff_t)i * stride];
    return (mil_stretch){to, 1};
}

static mil_stretch widen(const uint16_t *from, ptrdiff_t stride, size_t n, mil_cell *to) {
    if (stride == 1)
        ane_floats_from_halves(n, from, &to->f);
    else
        for (size_t i = 0; i < n; i++) to[i].f = ane_float_from_half(from[(ptrdiff_t)i * stride]);
    return (mil_stretch){to, 1};
}

/* Where operand `index` of the instruction is: a register, memory as it lies, or what was gathered
 * or widened. */
static mil_stretch operand(const block *at, const mil_instruction *code, size_t index) {
    static const mil_cell zero = {0};
    const mil_group *group = at->run->group;
    size_t number = code->operands[index];
    if (number == MIL_NONE) return (mil_stretch){&zero, 0};
    if (number < group->registers) return (mil_stretch){at->registers[number], 1};
    const mil_view *view = &group->memory[number - group->registers];
    ptrdiff_t stride = view->stride[view->rank - 1];
    const void *from = block_address(at, number - group->registers);
    if (group->halves[number - group->registers])
        return widen(from, stride, at->n, at->gathered[index]);
    bool as_it_lies = stride == 1 || (stride == 0 && code->count > 1);
    if (as_it_lies) return (mil_stretch){from, (size_t)stride};
    return gather(from, stride, at->n, at->gathered[index]);
}

static void run_block(const block *at) {
    const mil_group *group = at->run->group;
    for (size_t i = 0; i < group->length; i++) {
        const mil_instruction *code = &group->code[i];
        mil_stretch operands[MIL_MAX_OPERANDS] = {{0}};
        for (size_t j = 0; j < code->count; j++) operands[j] = operand(at, code, j);
        mil_cell *out = code->result < group->registers
                            ? at->registers[code->result]
                            : block_address(at, code->result - group->registers);
        mil_element_run(&code->element, at->n, operands, out);
        if (code->narrow != MIL_NONE)
            ane_halves_from_floats(at->n, &out->f,
                                   block_address(at, code->narrow - group->registers));
    }
}

static void go_to(block *at, size_t index) {
    const group_run *run = at->run;
    const mil_group *group = run->group;
    size_t row = index / run->blocks_per_row, last = group->memory[0].rank - 1;
    at->start = index % run->blocks_per_row * BLOCK;
    at->n = run->inner - at->start < BLOCK ? run->inner - at->start : BLOCK;
    for (size_t i = 0; i < group->memory_count; i++)
        at->rows[i] = mil_view_at(&group->memory[i], last, row);
}

/* Rows are often as long as a page, at whose end the processor's own prefetching ends. */
static void fetch(const block *at) {
    const mil_group *group = at->run->group;
    for (size_t i = 0; i < group->memory_count; i++) {
        const mil_view *view = &group->memory[i];
        if (view->stride[view->rank - 1] != 1) continue;
        size_t bytes = at->n * (group->halves[i] ? sizeof(uint16_t) : sizeof(mil_cell));
        const char *from = block_address(at, i);
        for (size_t byte = 0; byte < bytes; byte += CACHE_LINE) __builtin_prefetch(from + byte);
    }
}

static void run_blocks(void *argument, size_t begin, size_t end) {
    const group_run *run = argument;
    _Alignas(64) mil_cell registers[MIL_GROUP_LENGTH][BLOCK], gathered[MIL_MAX_OPERANDS][BLOCK];
    block at = {.run = run, .registers = registers, .gathered = gathered}, next = at;
    go_to(&next, begin);
    for (size_t index = begin; index < end; index++) {
        at = next;
        if (index + 1 < end) {
            go_to(&next, index + 1);
            fetch(&next);
        }
        run_block(&at);
    }
}

void mil_group_run(ane_pool *pool, const mil_group *group, mil_cell *const *memory) {
    group_run run = {.group = group, .memory = memory};
    run.inner = group->memory[0].dim[group->memory[0].rank - 1];
    run.blocks_per_row = (run.inner + BLOCK - 1) / BLOCK;
    size_t rows = group->elements / run.inner;
    size_t block_size = run.inner < BLOCK ? run.inner : BLOCK;
    mil_parallel(pool, rows * run.blocks_per_row, GRAIN / block_size, run_blocks, &run);
}
