/* ane.h: the one C API of ane-train. It holds declarations only, so that cffi reads it unchanged; a
 * C program includes <stdbool.h>, <stddef.h> and <stdint.h> first, and a C++ program includes it
 * within extern "C" { }. Every engine implements the first half; then come training arithmetic on
 * the CPU and a builder of weight files. Each `_free` takes NULL; a call that can fail returns an
 * ane_status and leaves text in the context (ane_context_error). Nothing here prints or exits.
 *
 * Dimension letters: D model, H query heads, K key-value heads, E head size, F feed-forward, V
 * vocabulary, S sequence, C channels of a surface, W width of a surface. */

typedef enum ane_status {
    ANE_OK = 0,
    ANE_ERROR_ARGUMENT,    /* a NULL, a size or a name that makes no sense */
    ANE_ERROR_MEMORY,      /* an allocation failed */
    ANE_ERROR_PARSE,       /* the MIL text is not well-formed */
    ANE_ERROR_TYPE,        /* a declared type, shape or value is wrong */
    ANE_ERROR_UNSUPPORTED, /* well-formed, but an op or form that this engine lacks */
    ANE_ERROR_WEIGHTS,     /* a weight file is missing or malformed */
    ANE_ERROR_LIMIT,       /* a limit of the engine is reached, such as the number of compiles */
    ANE_ERROR_STATE,       /* called out of order: not loaded, already locked, ... */
    ANE_ERROR_SYSTEM,   /* the operating system refused something (BLAS library, threads, files) */
    ANE_ERROR_EVALUATE, /* the evaluation itself failed */
    ANE_ERROR_COMPILE,  /* the engine's own compiler refused a program that is well-formed */
    ANE_ERROR_MISSING   /* the engine is not on this machine, or not as it is known */
} ane_status;

typedef enum ane_engine {
    ANE_SOFTWARE = 0, /* the engine in C, on any machine */
    ANE_HARDWARE = 1  /* the Apple Neural Engine, through the driver library */
} ane_engine;

/* How the driver has a program evaluated; which is fastest depends on chip and system. */
typedef enum ane_dispatch {
    ANE_DISPATCH_QUEUE = 0,   /* through the daemon: works wherever an ANE is */
    ANE_DISPATCH_DIRECT = 1,  /* _ANEClient's direct evaluation */
    ANE_DISPATCH_REALTIME = 2 /* _ANEClient's real-time evaluation */
} ane_dispatch;

typedef enum ane_numerics {
    ANE_FP16 = 0,   /* what is declared fp16 is rounded where it is stored; accumulation in fp32 */
    ANE_FP32 = 1,   /* nothing is rounded: surfaces and weights of declared fp16 values hold fp32 */
    ANE_HAZARD = 2, /* fp16 plus the measured defects of a chip (hazard flags) */
    ANE_BF16 = 3    /* fp16, but factors of products are rounded to bf16: up to twice as fast on
                       processors with instructions for it; others have the reference only */
} ane_numerics;

typedef enum ane_hazard {
    ANE_HAZARD_MATMUL_RANGE = 1, /* |matmul result| > 32752 becomes infinite */
    ANE_HAZARD_REDUCE_FP16 = 2,  /* reduce_sum and reduce_mean accumulate in fp16, in index order */
    ANE_HAZARD_WIDTH_SLICE =
        4 /* a slice with a non-zero begin on the last axis: |v| > 4094 becomes infinite */
} ane_hazard;

typedef struct ane_context ane_context; /* an open engine: threads, BLAS, limits, the last error */
typedef struct ane_surface ane_surface; /* a [1, C, 1, W] array shared with the engine */
typedef struct ane_program ane_program; /* a compiled MIL program */
typedef struct ane_request ane_request; /* a program bound to its surfaces */

typedef struct ane_options {
    ane_numerics numerics;
    unsigned hazards;      /* or-ed ane_hazard flags; read when numerics is ANE_HAZARD */
    size_t threads;        /* 0: one per core */
    size_t compile_limit;  /* programs that the context may compile; 0: no limit */
    size_t load_limit;     /* programs that may be loaded at a time; 0: no limit */
    const char *blas_path; /* shared library with cblas_sgemm; NULL: the built-in reference */
    bool reference;        /* the slow evaluator that defines each op, for comparison */
    size_t cache_limit; /* bytes of fp32 copies of fp16 inputs that stay unchanged; 0: no limit */
    ane_engine engine;
    ane_dispatch dispatch;   /* of ANE_HARDWARE */
    const char *driver_path; /* shared library that drives the hardware; NULL: linked in */
} ane_options;

typedef struct ane_error_info {
    ane_status status;
    size_t line; /* of the MIL text, from 1; 0 where there is none */
    size_t column;
    int64_t code; /* of the system's error; 0 where there is none */
    char domain[64];
    char text[480];
} ane_error_info;

/* A named weight file, as BLOBFILE(path = ...) names it, held by the caller during
 * ane_program_compile. */
typedef struct ane_weight_file {
    const char *path;
    const void *data;
    size_t size;
} ane_weight_file;

/* How a program is compiled. */
typedef struct ane_compile_options {
    ane_engine engine;  /* ANE_SOFTWARE runs it in software on any context's surfaces */
    ane_program *donor; /* of equal text: its compiled form is used with the new weight files, and
                           nothing is compiled; NULL: none */
} ane_compile_options;

typedef struct ane_port {
    const char *name;  /* lives as long as its program */
    const char *dtype; /* as declared: "fp16", "fp32", "int32", ... */
    size_t rank;
    size_t shape[5];
} ane_port;

typedef struct ane_counts {
    size_t compiled; /* programs compiled since the context was opened */
    size_t loaded;   /* programs loaded now */
    size_t surfaces; /* surfaces alive now */
    size_t surface_bytes;
} ane_counts;

/* --- engine
 * ------------------------------------------------------------------------------------------ */

/* Opens an engine. On failure *context is NULL and *error says why. */
ane_status ane_context_open(const ane_options *options, ane_context **context,
                            ane_error_info *error);
/* Surfaces, programs and requests that are still there keep the context until they are freed. */
void ane_context_free(ane_context *context);
/* Copies the error of the last failed call on this context. */
void ane_context_error(ane_context *context, ane_error_info *error);
void ane_context_counts(ane_context *context, ane_counts *counts);
size_t ane_context_threads(const ane_context *context);
/* "OpenBLAS 0.3.29 SkylakeX", "Accelerate", "reference": which matrix kernels run. Lives with the
 * context. */
const char *ane_context_blas(const ane_context *context);
/* Whether an engine with these options would multiply fp16 inputs as they lie in their surfaces,
 * for which the processor must have AVX2, or be a 64-bit Arm and not Apple's. Otherwise a request
 * keeps fp32 copies of those that stay unchanged. */
bool ane_reads_halves(const ane_options *options);

/* What can be told of the options' engine without opening it: a JSON object, malloc'ed, freed by
 * ane_text_free. Of the hardware: framework, classes, methods with the expected and the found type
 * encoding, device facts. ANE_ERROR_MISSING where there is no driver. */
ane_status ane_engine_describe(const ane_options *options, char **json, ane_error_info *error);
/* The private classes behind the options' engine, as the Objective-C runtime lists them, without a
 * message to any: a JSON object as ane_engine_describe gives it, with every class and protocol in
 * place of the device facts. ANE_ERROR_MISSING where there is no driver, no framework or no such
 * runtime. */
ane_status ane_engine_explore(const ane_options *options, char **json, ane_error_info *error);
/* "software" or "hardware". */
const char *ane_context_engine(const ane_context *context);

/* A zero-filled surface of `channels` rows of `width` elements of `element_size` bytes (2: fp16, 4:
 * fp32 or int32). The row stride is a multiple of 64 bytes. */
ane_status ane_surface_create(ane_context *context, size_t channels, size_t width,
                              size_t element_size, ane_surface **surface);
/* Requests bound to the surface keep its memory until they are freed. */
void ane_surface_free(ane_surface *surface);
void *ane_surface_base(ane_surface *surface);
size_t ane_surface_size(const ane_surface *surface);       /* bytes allocated */
size_t ane_surface_row_stride(const ane_surface *surface); /* bytes from one channel to the next */
/* Raw access through the base address happens between lock and unlock. Unlocking a lock that was
 * not read-only tells the engine that every element may have changed. */
ane_status ane_surface_lock(ane_surface *surface, bool read_only);
ane_status ane_surface_unlock(ane_surface *surface);
/* Staging of a block of rows x columns at (row, column), converted to the surface's element type
 * (rounded to nearest even; beyond the range of fp16 becomes infinite). The source is fp32 with
 * `stride` elements from row to row; `transposed` says that the source holds [columns, rows]. The
 * multiplier `scale` is applied before rounding. */
ane_status ane_surface_write(ane_surface *surface, size_t row, size_t column, size_t rows,
                             size_t columns, const float *source, size_t stride, bool transposed,
                             float scale);
/* Reads a block as fp32: out = beta * addend + alpha * block. The addend has the stride of out and
 * may be out itself; with beta 0 it is not read, and may be NULL. */
ane_status ane_surface_read(ane_surface *surface, size_t row, size_t column, size_t rows,
                            size_t columns, float alpha, float beta, const float *addend,
                            float *out, size_t stride);
/* Copies a block between surfaces of equal element size, bit for bit. */
ane_status ane_surface_copy(ane_surface *target, size_t row, size_t column, ane_surface *source,
                            size_t source_row, size_t source_column, size_t rows, size_t columns);

/* A rectangle of a surface, at (row, column). */
typedef struct ane_block {
    ane_surface *surface;
    size_t row, column, rows, columns;
} ane_block;

/* C[M, N] += L R^T of blocks L [M, K] and R [N, K]: the gradient of a weight. fp16 elements are
 * read where they lie, without a copy in fp32 where the processor has kernels for that. */
ane_status ane_outer_product(const ane_block *left, const ane_block *right, float *c, size_t ldc);

/* Lexes, parses and checks `length` bytes of MIL text, and has the engine compile it. The text and
 * the files may be freed afterwards. `options` NULL: on the context's engine, without a donor. */
ane_status ane_program_compile(ane_context *context, const char *text, size_t length,
                               const ane_weight_file *files, size_t file_count,
                               const ane_compile_options *options, ane_program **program);
ane_status ane_program_load(ane_program *program);
ane_status ane_program_unload(ane_program *program);
/* Requests keep the program until they are freed. */
void ane_program_free(ane_program *program);
size_t ane_program_inputs(const ane_program *program);
size_t ane_program_outputs(const ane_program *program);
ane_status ane_program_input(const ane_program *program, size_t index, ane_port *port);
ane_status ane_program_output(const ane_program *program, size_t index, ane_port *port);
/* Bytes of constants and of scratch memory, and floating-point operations of one evaluation;
 * scratch and operations are 0 where the engine does not tell. */
ane_status ane_program_cost(const ane_program *program, size_t *constant_bytes,
                            size_t *scratch_bytes, double *flops);
/* The text as the parser understood it, printed in canonical form: malloc'ed, freed by
 * ane_text_free. */
ane_status ane_program_print(ane_context *context, const char *text, size_t length, char **printed);
void ane_text_free(char *text);

/* Binds surfaces in the order of the ports. A port of shape [1, C, 1, W] takes a surface of C rows
 * of W elements; any other shape takes one whose elements, in row-major order, have the port's last
 * dimension as width and the product of the others as channels (a scalar: 1 x 1). fp16 ports take
 * 2-byte surfaces (4-byte ones in ANE_FP32), fp32 and integer and bool ports 4-byte ones. A
 * surface of an output serves no other port. The request keeps program and surfaces alive. */
ane_status ane_request_create(ane_program *program, ane_surface **inputs, size_t input_count,
                              ane_surface **outputs, size_t output_count, ane_request **request);
/* Synchronous. Fails while an input is locked for writing or an output is locked at all.
 * Evaluations of one context, called from several threads, wait for each other. */
ane_status ane_request_evaluate(ane_request *request);
void ane_request_free(ane_request *request);

/* --- training arithmetic: fp32, row-major, activations channel-first [D, S]
 * -------------------------------- */
/* Each runs on the context's threads and gives the same bits for any number of threads that happen
 * to be free. A NULL context or array is ANE_ERROR_ARGUMENT. */

/* C[M, N] = alpha * op(A) op(B) + beta * C, op = transpose where the flag is set; leading
 * dimensions in elements, as in cblas_sgemm with row-major order. */
ane_status ane_gemm(ane_context *context, bool transpose_a, bool transpose_b, size_t m, size_t n,
                    size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb,
                    float beta, float *c, size_t ldc);

/* y[rows] = M x of a matrix [rows, columns] without gaps that is read as it is stored: fp16, or
 * int8 with a scale for each row, where x counts as 16-bit integers with a scale for 256 of them.
 */
ane_status ane_matvec_fp16(ane_context *context, size_t rows, size_t columns,
                           const uint16_t *matrix, const float *x, float *y);
ane_status ane_matvec_int8(ane_context *context, size_t rows, size_t columns, const int8_t *matrix,
                           const float *scales, const float *x, float *y);

/* x[D, S] = columns table[tokens[s], :]; a token outside [0, V) is ANE_ERROR_ARGUMENT and x is
 * untouched. */
ane_status ane_embedding_forward(ane_context *context, size_t vocabulary, size_t dim,
                                 size_t sequence, const float *table, const int32_t *tokens,
                                 float *x);
/* table_gradient[tokens[s], :] += dx[:, s], in the order of s. */
ane_status ane_embedding_backward(ane_context *context, size_t vocabulary, size_t dim,
                                  size_t sequence, const float *dx, const int32_t *tokens,
                                  float *table_gradient);

/* y[d, s] = x[d, s] * gamma[d] * inverse_rms[s], inverse_rms[s] = 1 / sqrt(mean_d x^2 + epsilon)
 * (Zhang and Sennrich 2019, arXiv 1910.07467). */
ane_status ane_rmsnorm_forward(ane_context *context, size_t dim, size_t sequence, float epsilon,
                               const float *x, const float *gamma, float *y, float *inverse_rms);
/* dx += gradient; dgamma += gradient. inverse_rms as the forward pass left it. */
ane_status ane_rmsnorm_backward(ane_context *context, size_t dim, size_t sequence, const float *x,
                                const float *gamma, const float *inverse_rms, const float *dy,
                                float *dx, float *dgamma);

/* Softmax cross-entropy of `positions` rows of logits[positions, V] against targets. losses[p] is
 * in nats; logits become (softmax - one_hot) * scale. A target of -1 is masked: loss 0, gradient 0.
 * With a scale of 0 the logits are left as they are. Any other target outside [0, V) is
 * ANE_ERROR_ARGUMENT. */
ane_status ane_cross_entropy(ane_context *context, size_t positions, size_t vocabulary,
                             float *logits, const int32_t *targets, float scale, float *losses);

/* y += alpha * x over n elements. */
ane_status ane_axpy(ane_context *context, size_t n, float alpha, const float *x, float *y);
/* The sum of squares in double, in a fixed order; not finite if any element is not. */
ane_status ane_sum_squares(ane_context *context, size_t n, const float *x, double *sum);

/* In double because 1 - beta2 of a float beta2 would be off by 1e-5. */
typedef struct ane_adamw_options {
    double learning_rate;
    double beta1;
    double beta2;
    double epsilon;
    double weight_decay;
    double gradient_scale; /* multiplied into the gradient first: unscaling and clipping */
    size_t step;           /* from 1, for bias correction */
} ane_adamw_options;

/* Elements [begin, end) of some arrays. */
typedef struct ane_stretch {
    size_t begin, end;
    bool decays; /* whether weight decay acts on them */
} ane_stretch;

/* Decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), in place; the order of
 * operations is torch.optim.AdamW's, with the product by an inverse for one division. Only the
 * stretches change, which come in rising order and do not overlap: all of them in one pass, since
 * each pass waits for its slowest thread. */
ane_status ane_adamw(ane_context *context, const ane_adamw_options *options, size_t count,
                     const ane_stretch *stretches, float *weight, const float *gradient,
                     float *first_moment, float *second_moment);

/* --- weight files
 * ------------------------------------------------------------------------------------------ */
/* A file that BLOBFILE(path = ..., offset = ...) reads, built in memory record by record, byte for
 * byte as Core ML's own writer lays it out. Each function that adds a record puts what BLOBFILE
 * calls its offset into *offset, and adds nothing when it fails. */

typedef struct ane_weight_builder ane_weight_builder;

/* A matrix [rows, columns] in fp32, row-major and without gaps. */
typedef struct ane_weight_source {
    const float *values;
    size_t rows;
    size_t columns;
    bool transposed; /* `values` hold [columns, rows] */
} ane_weight_source;

ane_status ane_weight_builder_create(ane_context *context, ane_weight_builder **builder);
void ane_weight_builder_free(ane_weight_builder *builder);
/* Rounded to nearest even. A value that is not finite in fp16 is ANE_ERROR_ARGUMENT. */
ane_status ane_weight_builder_fp16(ane_weight_builder *builder, const ane_weight_source *source,
                                   uint64_t *offset);
/* int8 values as they are. */
ane_status ane_weight_builder_int8(ane_weight_builder *builder, const int8_t *values, size_t count,
                                   uint64_t *offset);
/* Two records: int8 [rows, columns] and the scale of each row, fp16 [rows]. They are quantized_data
 * and scale of constexpr_affine_dequantize with axis 0 and zero_point int8(0), whose result is then
 * fp16, within half a scale of the source before it is rounded. A row's scale is the least fp16
 * number that is not below its largest magnitude / 127, or 1 if it holds zeros only; its values are
 * value / scale in fp32, rounded to nearest even. Magnitudes above 127 * 65504 and what is not
 * finite are ANE_ERROR_ARGUMENT. */
ane_status ane_weight_builder_quantized(ane_weight_builder *builder,
                                        const ane_weight_source *source, uint64_t *offset,
                                        uint64_t *scale_offset);
/* The file so far under the name `path`. It borrows `path`, and its data until the next record is
 * added or the builder is freed. */
ane_status ane_weight_builder_file(const ane_weight_builder *builder, const char *path,
                                   ane_weight_file *file);
