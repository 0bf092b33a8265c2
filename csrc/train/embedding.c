/* embedding.c: looks rows of a [V, D] table up into the columns of an activation [D, S], and adds
 * columns of a gradient back into rows. */
#include "train.h"

#define COLUMNS 16 /* of one tile: a cache line of every row of the activation */
#define ROWS 64    /* of one tile: features of every token that the tile touches */

typedef struct embedding_job {
    size_t dim, sequence;
    const int32_t *tokens;
    const float *from; /* the table forward, the activation's gradient backward */
    float *to;
} embedding_job;

static ane_status check_tokens(ane_context *context, size_t vocabulary, size_t sequence,
                               const int32_t *tokens) {
    for (size_t s = 0; s < sequence; s++)
        if (tokens[s] < 0 || (size_t)tokens[s] >= vocabulary)
            return ane_context_fail(context, ANE_ERROR_ARGUMENT,
                                    "token %d at position %zu is outside the vocabulary of %zu",
                                    (int)tokens[s], s, vocabulary);
    return ANE_OK;
}

static void forward_task(void *argument, size_t index) {
    const embedding_job *job = argument;
    size_t first = index * COLUMNS;
    size_t columns = train_min(job->sequence - first, COLUMNS);
    const float *rows[COLUMNS];
    for (size_t j = 0; j < columns; j++)
        rows[j] = job->from + (size_t)job->tokens[first + j] * job->dim;
    for (size_t d = 0; d < job->dim; d++) {
        float *x = job->to + d * job->sequence + first;
        for (size_t j = 0; j < columns; j++) x[j] = rows[j][d];
    }
}

ane_status ane_embedding_forward(ane_context *context, size_t vocabulary, size_t dim,
                                 size_t sequence, const float *table, const int32_t *tokens,
                                 float *x) {
    if (!context || !table || !tokens || !x) return train_null(context, "ane_embedding_forward");
    ane_status status = check_tokens(context, vocabulary, sequence, tokens);
    if (status != ANE_OK) return status;
    embedding_job job = {dim, sequence, tokens, table, x};
    ane_pool_run(context->pool, train_blocks(sequence, COLUMNS), forward_task, &job);
    return ANE_OK;
}

/* A tile is transposed on the way, so that memory is read and written by whole cache lines. */
static void backward_tile(const embedding_job *job, size_t row, size_t rows, size_t column) {
    float tile[COLUMNS][ROWS];
    size_t columns = train_min(job->sequence - column, COLUMNS);
    for (size_t d = 0; d < rows; d++) {
        const float *dx = job->from + (row + d) * job->sequence + column;
        for (size_t j = 0; j < columns; j++) tile[j][d] = dx[j];
    }
    for (size_t j = 0; j < columns; j++) {
        float *gradient = job->to + (size_t)job->tokens[column + j] * job->dim + row;
        for (size_t d = 0; d < rows; d++) gradient[d] += tile[j][d];
    }
}

/* A task owns a range of features, so two positions of one token never meet in different tasks. */
static void backward_task(void *argument, size_t index) {
    const embedding_job *job = argument;
    size_t row = index * ROWS;
    size_t rows = train_min(job->dim - row, ROWS);
    for (size_t column = 0; column < job->sequence; column += COLUMNS)
        backward_tile(job, row, rows, column);
}

ane_status ane_embedding_backward(ane_context *context, size_t vocabulary, size_t dim,
                                  size_t sequence, const float *dx, const int32_t *tokens,
                                  float *table_gradient) {
    if (!context || !dx || !tokens || !table_gradient)
        return train_null(context, "ane_embedding_backward");
    ane_status status = check_tokens(context, vocabulary, sequence, tokens);
    if (status != ANE_OK) return status;
    embedding_job job = {dim, sequence, tokens, dx, table_gradient};
    ane_pool_run(context->pool, train_blocks(dim, ROWS), backward_task, &job);
    return ANE_OK;
}
