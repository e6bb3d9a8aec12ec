/*
The training step of a small model: forward and backward of model.py, clipping and AdamW of tbtt/engine.py, in
float32, without leaving the cache. kernel.py beside this file has it compiled for one shape of model, and
calls it.

Read it beside model.py, and begin with train(). Sizes are compile-time constants (-DV=17 -DT=9 ...):
    V vocabulary, T positions of a block, C features, H heads, L layers, F features of the MLP's hidden layer,
    BIAS whether layers have biases (0 or 1)

Layout. A batch is cut into tiles of LANES = 16 windows. Within a tile a tensor is a plane [T][features][16]
of floats, with the 16 windows side by side. "x (T, C)" in a comment is such a plane. A column is one position
with all its features. A lane is the place of a window in its tile. Rows may be longer than the features, so
functions are told their length: feature c of position t in lane i is x[(t * x_row + c) * LANES + i].
The gradient of x is called dx.

Vectors. One instruction of the processor works on W neighbouring floats: 16, 8 or 4. `vec` is the type of W
floats in a register. +, -, * and / of two vecs work in each of the W places; a plain number stands for W
copies of it. A loop `for_parts` takes the 16 lanes W at a time: `part` is 0, W, 2 W, ... Inside it, the code
reads like code for one window.

Everything that a tile needs stays in the level 1 and level 2 caches until the tile is done.

Two savings change nothing but the rounding:
    merge   A batch draws windows with repetition. Each distinct window is computed once, and weighted by how
            often it was drawn.
    table   What the first block computes before attention depends only on position and token. It is computed
            for the T x V pairs, instead of for each character of the batch. Tiles copy it from the table
            (gather), and add its gradients to those of the table (scatter).

The bits of the result depend neither on the number of threads nor on W. The tiles belong to CHUNKS chunks,
whose gradients are summed in a fixed order. The 16 lanes are summed in a fixed tree. Every sum of products is
a chain of fused multiply-adds in a fixed order. exp, log and GELU are polynomials written down here.
*/
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(__FMA__) && !defined(__aarch64__) && !defined(__FP_FAST_FMAF)
#error this processor has no fused multiply-add
#endif

/* ---- vectors of W floats, as wide as this processor has them ---- */

#define LANES 16
#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX__)
#define W 8
#else
#define W 4
#endif
/* W floats, and W integers. A comparison of two vecs gives an ivec: in each lane all bits are 1 if it is
   true, and 0 if not. A cast from one type to the other keeps the bits. */
typedef float vec __attribute__((vector_size(4 * W), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), may_alias));

/* An array of vecs stays in registers only if its indices are constants: loops over it are unrolled, and
   functions are inlined, so that their sizes are constants too. */
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
/* Keep x in a register. Otherwise the compiler would load an operand from memory again for each multiply-add
   that uses it. PIN hides from the compiler that the register holds what is in memory. */
#if defined(__AVX512F__)
#define PIN(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define PIN(x) __asm__("" : "+w"(x))
#else
#define PIN(x) (void)(x)
#endif
/* A product keeps the sums of OUTPUTS outputs in COLUMNS columns in registers. */
#define COLUMNS 3
#if defined(__AVX512F__) || defined(__aarch64__)
#define OUTPUTS 7
#else
#define OUTPUTS 4
#endif

/* The W floats from p on; p is aligned to their size. */
#define load(p) (*(const vec *)(p))
#define store(p, x) (*(vec *)(p) = (x))
#define for_parts for (int part = 0; part < LANES; part += W)

/* s in every lane */
INLINE vec splat(float s) { return s - (vec){0}; }

/* a * b + c, rounded once: a fused multiply-add */
INLINE vec muladd(vec a, vec b, vec c) {
#if W == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif W == 8
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    for (int i = 0; i < W; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

/* In each lane `yes` where all bits of the mask are 1, `no` where all are 0. */
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* The larger of a and b; b if one of them is NaN. */
INLINE vec larger(vec a, vec b) {
#if W == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif W == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

/* zip_first takes the first halves of a and b by turns: a0 b0 a1 b1 ...; zip_last takes the last halves. The
   numbers are places in a and b one after the other: for W = 4 those of a are 0 to 3, those of b 4 to 7. */
#if W == 16
#define FIRST_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LAST_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif W == 8
#define FIRST_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define LAST_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FIRST_HALVES 0, 4, 1, 5
#define LAST_HALVES 2, 6, 3, 7
#endif
#if defined(__clang__) || __GNUC__ >= 12
INLINE vec zip_first(vec a, vec b) { return __builtin_shufflevector(a, b, FIRST_HALVES); }
INLINE vec zip_last(vec a, vec b) { return __builtin_shufflevector(a, b, LAST_HALVES); }
#else
INLINE vec zip_first(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){FIRST_HALVES}); }
INLINE vec zip_last(vec a, vec b) { return __builtin_shuffle(a, b, (ivec){LAST_HALVES}); }
#endif

/* Transpose a W x W matrix in place. Each pass zips every row with the row W / 2 further down. */
INLINE void transpose(vec rows[W]) {
    UNROLL for (int step = 1; step < W; step *= 2) {
        vec zipped[W];
        UNROLL for (int i = 0; i < W / 2; i++) {
            zipped[2 * i] = zip_first(rows[i], rows[i + W / 2]);
            zipped[2 * i + 1] = zip_last(rows[i], rows[i + W / 2]);
        }
        UNROLL for (int i = 0; i < W; i++) rows[i] = zipped[i];
    }
}

/* Lane i of the result is the sum of all lanes of x[i]; x is overwritten. Each pass adds pairs of lanes, and
   leaves half as many vectors. */
INLINE vec sum_of_each(vec x[W]) {
    UNROLL for (int half = W / 2; half > 0; half /= 2)
        UNROLL for (int i = 0; i < half; i++)
            x[i] = zip_first(x[i], x[i + half]) + zip_last(x[i], x[i + half]);
    return x[0];
}

/* out[i] += the sum over the 16 lanes of quantity i, for 16 quantities. x[p][i] is part p of quantity i. */
INLINE void add_lane_sums(float *out, vec x[LANES / W][LANES]) {
    /* First lane l plus lane l + 8, whatever W is. */
    UNROLL for (int parts = LANES / W / 2; parts > 0; parts /= 2)
        UNROLL for (int p = 0; p < parts; p++)
            UNROLL for (int i = 0; i < LANES; i++) x[p][i] += x[p + parts][i];
    UNROLL for (int i = 0; i < LANES; i += W) store(out + i, load(out + i) + sum_of_each(x[0] + i));
}

/* e^x for x <= 0, by the polynomial of Cephes: e^x = 2^k e^r, with k the integer nearest to x / ln 2. Results
   that would be denormal (see flush_denormals) are about 1e-38 instead. NaN stays NaN. */
INLINE vec exponential(vec x) {
    x = larger(splat(-87.3f), x);
    /* Adding 1.5 * 2^23 rounds to an integer, which is then in the lowest bits. */
    const vec shifted = muladd(x, splat(1.44269504f), splat(12582912.0f));
    const vec k = shifted - 12582912.0f;
    /* r = x - k ln 2; ln 2 is given in two parts, to be exact */
    vec r = muladd(k, splat(-0.693359375f), x);
    r = muladd(k, splat(2.12194440e-4f), r);
    vec y = muladd(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
    y = muladd(y, r, splat(8.3334519073e-3f));
    y = muladd(y, r, splat(4.1665795894e-2f));
    y = muladd(y, r, splat(1.6666665459e-1f));
    y = muladd(y, r, splat(5.0000001201e-1f));
    y = muladd(y, r * r, r) + 1.0f;
    /* 2^k: k is added to the exponent of 1.0, whose bits are 0x3f800000 */
    return y * (vec)(((ivec)shifted << 23) + 0x3f800000);
}

/* ln x for normal x > 0, by the polynomial of Cephes: x = 2^k (1 + m), 1 + m from sqrt(1/2) to sqrt(2). */
INLINE vec logarithm(vec x) {
    const ivec bits = (ivec)x - 0x3f3504f3; /* less the bits of sqrt(1/2): from bit 23 on, this is k */
    const vec k = __builtin_convertvector(bits >> 23, vec);
    const vec m = (vec)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    vec y = muladd(splat(7.0376836292e-2f), m, splat(-1.1514610310e-1f));
    y = muladd(y, m, splat(1.1676998740e-1f));
    y = muladd(y, m, splat(-1.2420140846e-1f));
    y = muladd(y, m, splat(1.4249322787e-1f));
    y = muladd(y, m, splat(-1.6668057665e-1f));
    y = muladd(y, m, splat(2.0000714765e-1f));
    y = muladd(y, m, splat(-2.4999993993e-1f));
    y = muladd(y, m, splat(3.3333331174e-1f));
    y = y * m * m * m + k * -2.12194440e-4f - 0.5f * m * m;
    return m + y + k * 0.693359375f;
}

/* Square roots. */
INLINE vec root(vec x) {
#if W == 16
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif W == 8
    return (vec)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < W; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* ---- the layout of memory ---- */

#define D (C / H) /* features of a head */
#define ROUND_UP(n, to) (((n) + (to)-1) / (to) * (to))
/* Rows have an odd length: otherwise columns could fall onto the same places of the cache. */
#define ODD(n) ((n) | 1)
#define ENTRY ROUND_UP(4 * C, LANES) /* floats of an entry of the table: x, q, k, v of a (position, token) */
#define ROW ODD(ENTRY)               /* length of a row of the plane that holds x, q, k, v */
#define CHUNKS 4                     /* groups of tiles, each with its own gradient */
#define TOKENS ROUND_UP(V, LANES)    /* the vocabulary, filled up to whole tiles */

/* The weights of a replica, as tbtt/replicas.py has them: in the order of the model's named parameters. In
   model.py qkv is attn.c_attn, proj is attn.c_proj, fc is mlp.c_fc and out is mlp.c_proj. */
struct layer {
    float ln_1[C], ln_1_bias[BIAS * C], qkv[3 * C][C], qkv_bias[BIAS * 3 * C], proj[C][C],
        proj_bias[BIAS * C];
    float ln_2[C], ln_2_bias[BIAS * C], fc[F][C], fc_bias[BIAS * F], out[C][F], out_bias[BIAS * C];
};
struct params {
    float wte[V][C], wpe[T][C];
    struct layer h[L];
    float ln_f[C], ln_f_bias[BIAS * C];
};
#define NUM_PARAMS ((int)(sizeof(struct params) / sizeof(float)))

/* Weights of the layers that follow a layer norm, with its gain g and bias b folded in:
   W (g x + b) = (W g) x + W b. So the layer norms below only normalise. The factor D^-1/2 of attention is
   folded into the weights of the queries. */
struct folded {
    struct {
        float qkv[3 * C][C], qkv_bias[3 * C], fc[F][C], fc_bias[F];
    } h[L];
    float head[V][C], head_bias[V];
};

/* Gradients of the folded weights, and of proj and out. A matrix is packed: it consists of the blocks of 2
   outputs x 7 inputs that weight_block computes, in that order, 16 floats a block. unpack() makes a matrix of
   them. */
#define BLOCK_OUTS 2
#define BLOCK_INS 7
#define BLOCKS(outs, ins) (ROUND_UP(outs, BLOCK_OUTS) / BLOCK_OUTS * (ROUND_UP(ins, BLOCK_INS) / BLOCK_INS))
#define PACKED(outs, ins) [BLOCKS(outs, ins) * LANES]
#define SUMS(n) [ROUND_UP(n, LANES)]
struct gradient {
    struct {
        float qkv PACKED(3 * C, C), proj PACKED(C, C), fc PACKED(F, C), out PACKED(C, F);
        float qkv_bias SUMS(BIAS * 3 * C), proj_bias SUMS(BIAS *C), fc_bias SUMS(BIAS *F),
            out_bias SUMS(BIAS *C);
    } h[L];
    float head PACKED(V, C), head_bias SUMS(BIAS *V);
    /* of the embeddings; wte is transposed. The head's part of the tied weight is in `head`. */
    float wpe[T] SUMS(C), wte[ROUND_UP(C, 1)][TOKENS];
    float loss[LANES];
} __attribute__((aligned(64)));

/* What a tile keeps from forward for backward, and what is passed from layer to layer. */
struct tile {
    /* x, then q, k, v of a layer. x is the residual stream, which all layers share: only layer 0 has it. */
    float rows[L][T][ROW][LANES];
    float drows[T][ROW][LANES]; /* their gradients, one layer after the other */
    /* normalised x */
    float norm_1[L][T][ODD(C)][LANES], norm_2[L][T][ODD(C)][LANES], norm_f[T][ODD(C)][LANES];
    float scale_1[L][T][LANES], scale_2[L][T][LANES], scale_f[T][LANES]; /* 1 / standard deviation */
    float weights[L][H][T][T][LANES];                                    /* of attention, after softmax */
    float heads[L][T][ODD(C)][LANES]; /* what attention returns, before its projection */
    float hidden[L][T][ODD(F)][LANES], slope[L][T][ODD(F)][LANES]; /* GELU and its derivative */
    float logits[T][ODD(V)][LANES];
    float dheads[T][ODD(C)][LANES], dnorm[T][ODD(C)][LANES], dhidden[T][ODD(F)][LANES], dweights[T][T][LANES];
    int32_t ids[T + 1][LANES]; /* tokens; the last one is only a target */
    float share[T][LANES];     /* the weight of a target in the mean loss of the batch */
} __attribute__((aligned(64)));

struct chunk {
    struct gradient gradient;
    float table[T][V][ENTRY] __attribute__((aligned(64))); /* gradient of the table; zero between steps */
};

struct workspace {
    struct folded folded;
    struct params sum; /* gradient of the whole batch */
    struct chunk chunks[CHUNKS];
    float table[T][V][ENTRY] __attribute__((aligned(64)));
    struct tile tiles[]; /* one per thread */
};

/* One replica's work, shared by its threads. `Job` in kernel.py has the same fields in the same order. */
struct job {
    const int32_t *data; /* tokens */
    /* Where windows start in data. The start of window b in micro-step m of step s is at
       s * stride + m * micro_stride + b. */
    const int64_t *starts;
    int64_t stride, micro_stride, num_steps, num_micro, batch;
    /* If not null, the windows themselves, (num_steps, num_micro, T + 1, batch), are used instead of data and
       starts. A negative token is no target. */
    const int32_t *text;
    int64_t text_stride, text_micro_stride;
    const float *lr;                        /* (num_steps,) */
    float *params, *exp_avg, *exp_avg_sq, *step;
    float *losses; /* the loss of step s is at s * loss_stride */
    int64_t loss_stride;
    /* If not null, the gradient is written there, and nothing is updated. */
    float *gradient;
    double beta1, beta2, weight_decay, grad_clip;
    /* For merge(): distinct and counts are (num_micro * batch). places is (num_windows), filled with -1, or
       null: then nothing is merged. */
    int32_t *distinct, *counts, *places;
    struct workspace *workspace;
    int32_t threads, num_distinct;
    int64_t num_targets; /* of the batch */
    atomic_int arrived, round, taken; /* of barrier() and take() */
};

/* ---- the layers; each column of a tile is computed by itself ---- */

/* y[c][o] (column c, output o) = sum over inputs j of w[o * w_out + j * w_in] x[c][j], plus bias[o] if there
   is a bias, plus the old y[c][o] if `add`. All sums of the block, outs x columns, stay in registers: each
   number that is loaded is used for several of them. */
INLINE void product_block(const int outs, const int columns, const int ins, float *y, const int y_row,
                          const float *x, const int x_row, const float *w, const int w_out, const int w_in,
                          const float *bias, const bool add) {
    for_parts {
        vec sum[OUTPUTS][COLUMNS];
        UNROLL for (int o = 0; o < outs; o++)
            UNROLL for (int c = 0; c < columns; c++) {
                sum[o][c] = splat(bias ? bias[o] : 0.0f);
                if (add) sum[o][c] += load(y + (c * y_row + o) * LANES + part);
            }
        for (int j = 0; j < ins; j++) {
            vec in[COLUMNS];
            UNROLL for (int c = 0; c < columns; c++) {
                in[c] = load(x + (c * x_row + j) * LANES + part);
                PIN(in[c]);
            }
            UNROLL for (int o = 0; o < outs; o++) {
                vec weight = splat(w[o * w_out + j * w_in]);
                PIN(weight);
                UNROLL for (int c = 0; c < columns; c++) sum[o][c] = muladd(weight, in[c], sum[o][c]);
            }
        }
        UNROLL for (int o = 0; o < outs; o++)
            UNROLL for (int c = 0; c < columns; c++) store(y + (c * y_row + o) * LANES + part, sum[o][c]);
    }
}

/* The same for any number of outputs. */
INLINE void product_columns(const int columns, const int outs, const int ins, float *y, const int y_row,
                            const float *x, const int x_row, const float *w, const int w_out, const int w_in,
                            const float *bias, const bool add) {
    int o = 0;
    for (; o + OUTPUTS <= outs; o += OUTPUTS)
        product_block(OUTPUTS, columns, ins, y + o * LANES, y_row, x, x_row, w + o * w_out, w_out, w_in,
                      bias ? bias + o : 0, add);
    if (outs % OUTPUTS)
        product_block(outs % OUTPUTS, columns, ins, y + o * LANES, y_row, x, x_row, w + o * w_out, w_out,
                      w_in, bias ? bias + o : 0, add);
}

/* y (columns, outs) = w x, with x (columns, ins), plus bias (outs,) or null; added to y if `add` */
INLINE void product(const int columns, const int outs, const int ins, float *y, const int y_row,
                    const float *x, const int x_row, const float *w, const int w_out, const int w_in,
                    const float *bias, const bool add) {
    int t = 0;
    for (; t + COLUMNS <= columns; t += COLUMNS)
        product_columns(COLUMNS, outs, ins, y + t * y_row * LANES, y_row, x + t * x_row * LANES, x_row, w,
                        w_out, w_in, bias, add);
    if (columns % COLUMNS)
        product_columns(columns % COLUMNS, outs, ins, y + t * y_row * LANES, y_row, x + t * x_row * LANES,
                        x_row, w, w_out, w_in, bias, add);
}

/* y = w x + bias with w (outs, ins), as Linear.forward; added to y if `add` */
#define linear_forward(columns, outs, ins, y, y_row, x, x_row, w, bias, add)                                 \
    product(columns, outs, ins, y, y_row, x, x_row, w, ins, 1, bias, add)
/* dx = w^T dy */
#define linear_backward_input(outs, ins, dx, dx_row, dy, dy_row, w)                                          \
    product(T, ins, outs, dx, dx_row, dy, dy_row, w, 1, ins, 0, false)

/* One block of packed dw: dw[o][j] += sum over columns and lanes of dy[c][o] x[c][j]. Each lane is summed
   over the columns first, in registers. */
INLINE void weight_block(const int outs, const int ins, float *dw, const float *dy, const int dy_row,
                         const float *x, const int x_row) {
    vec total[LANES / W][LANES] = {0};
    UNROLL for (int p = 0; p < LANES / W; p++) {
        vec sum[BLOCK_OUTS][BLOCK_INS] = {0};
        for (int t = 0; t < T; t++) {
            vec left[BLOCK_OUTS], right[BLOCK_INS];
            UNROLL for (int o = 0; o < outs; o++) {
                left[o] = load(dy + (t * dy_row + o) * LANES + p * W);
                PIN(left[o]);
            }
            UNROLL for (int j = 0; j < ins; j++) {
                right[j] = load(x + (t * x_row + j) * LANES + p * W);
                PIN(right[j]);
                UNROLL for (int o = 0; o < outs; o++) sum[o][j] = muladd(left[o], right[j], sum[o][j]);
            }
        }
        UNROLL for (int o = 0; o < outs; o++)
            UNROLL for (int j = 0; j < ins; j++) total[p][o * BLOCK_INS + j] = sum[o][j];
    }
    add_lane_sums(dw, total);
}

/* The blocks of packed dw for the same `ins` inputs and all outputs; blocks are `next` floats apart. In this
   order the part of x that they read stays in the level 1 cache. */
INLINE void weight_blocks(const int outs, const int ins, float *dw, const int next, const float *dy,
                          const int dy_row, const float *x, const int x_row) {
    int o = 0;
    for (; o + BLOCK_OUTS <= outs; o += BLOCK_OUTS, dw += next)
        weight_block(BLOCK_OUTS, ins, dw, dy + o * LANES, dy_row, x, x_row);
    if (outs % BLOCK_OUTS) weight_block(outs % BLOCK_OUTS, ins, dw, dy + o * LANES, dy_row, x, x_row);
}

/* dw (outs, ins), packed, += dy x^T; if there are biases, dbias (outs,) += the sums of dy */
INLINE void linear_backward_weight(const int outs, const int ins, float *dw, float *dbias, const float *dy,
                                   const int dy_row, const float *x, const int x_row) {
    const int next = ROUND_UP(ins, BLOCK_INS) / BLOCK_INS * LANES;
    int j = 0;
    for (; j + BLOCK_INS <= ins; j += BLOCK_INS, dw += LANES)
        weight_blocks(outs, BLOCK_INS, dw, next, dy, dy_row, x + j * LANES, x_row);
    if (ins % BLOCK_INS)
        weight_blocks(outs, ins % BLOCK_INS, dw, next, dy, dy_row, x + j * LANES, x_row);
    for (int o = 0; BIAS && o < outs; o += LANES) {
        vec total[LANES / W][LANES] = {0};
        for (int t = 0; t < T; t++)
            for (int k = 0; k < LANES && o + k < outs; k++)
                for (int p = 0; p < LANES / W; p++)
                    total[p][k] += load(dy + (t * dy_row + o + k) * LANES + p * W);
        add_lane_sums(dbias + o, total);
    }
}

/* norm (columns, C) = (x - mean) / deviation, scale (columns,) = 1 / deviation; gain and bias are folded into
   the weights that follow */
INLINE void layernorm_forward(const int columns, float *norm, float *scale, const float *x,
                              const int x_row) {
    for (int t = 0; t < columns; t++, norm += ODD(C) * LANES, scale += LANES, x += x_row * LANES) for_parts {
        vec sum = {0}, squares = {0};
        for (int c = 0; c < C; c++) sum += load(x + c * LANES + part);
        const vec mean = sum * (1.0f / C);
        for (int c = 0; c < C; c++) {
            const vec centred = load(x + c * LANES + part) - mean;
            store(norm + c * LANES + part, centred);
            squares = muladd(centred, centred, squares);
        }
        const vec inverse = 1.0f / root(muladd(squares, splat(1.0f / C), splat(1e-5f)));
        for (int c = 0; c < C; c++) store(norm + c * LANES + part, load(norm + c * LANES + part) * inverse);
        store(scale + part, inverse);
    }
}

/* The gradient of x (T, C) from that of norm, dnorm (T, C), is
   scale * (dnorm - mean(dnorm) - norm * mean(dnorm * norm)): added to dx if `add`, else written there. */
INLINE void layernorm_backward(float *dx, const int dx_row, const float *dnorm, const float *norm,
                               const float *scale, const bool add) {
    for (int t = 0; t < T;
         t++, dx += dx_row * LANES, dnorm += ODD(C) * LANES, norm += ODD(C) * LANES, scale += LANES)
        for_parts {
        vec sum = {0}, dot = {0};
        for (int c = 0; c < C; c++) {
            sum += load(dnorm + c * LANES + part);
            dot = muladd(load(dnorm + c * LANES + part), load(norm + c * LANES + part), dot);
        }
        const vec inverse = load(scale + part), mean = sum * (-1.0f / C), slope = dot * (-1.0f / C);
        for (int c = 0; c < C; c++) {
            const vec d = muladd(load(norm + c * LANES + part), slope, load(dnorm + c * LANES + part) + mean);
            float *to = dx + c * LANES + part;
            store(to, muladd(d, inverse, add ? load(to) : splat(0.0f)));
        }
    }
}

/* hidden (columns, F) becomes its GELU, in the exact form: x P(x), with P the distribution function of the
   normal distribution. slope (columns, F) becomes its derivative. P is computed by Abramowitz and Stegun
   7.1.26 (error below 1.5e-7), which needs the same exponential as the derivative. */
INLINE void gelu_forward(const int columns, float *hidden, float *slope) {
    for (int t = 0; t < columns; t++, hidden += ODD(F) * LANES, slope += ODD(F) * LANES)
        for (int i = 0; i < F * LANES; i += W) {
            const vec x = load(hidden + i), size = larger(x, -x);
            const vec bell = exponential(x * x * -0.5f);
            const vec t = 1.0f / muladd(size, splat(0.3275911f * 0.70710678f), splat(1.0f));
            vec tail = muladd(splat(0.5f * 1.061405429f), t, splat(0.5f * -1.453152027f));
            tail = muladd(tail, t, splat(0.5f * 1.421413741f));
            tail = muladd(tail, t, splat(0.5f * -0.284496736f));
            tail = muladd(tail, t, splat(0.5f * 0.254829592f)) * t * bell; /* P(-|x|) */
            const vec below = choose(x > 0.0f, 1.0f - tail, tail);
            store(hidden + i, x * below);
            store(slope + i, muladd(x * 0.39894228f, bell, below));
        }
}

/* dhidden (T, F) becomes the gradient of what GELU was applied to. */
INLINE void gelu_backward(float *dhidden, const float *slope) {
    for (int t = 0; t < T; t++, dhidden += ODD(F) * LANES, slope += ODD(F) * LANES)
        for (int i = 0; i < F * LANES; i += W) store(dhidden + i, load(dhidden + i) * load(slope + i));
}

/* ---- attention of one head in one tile; weights[t][s] (T, T) belong to query t and key s, s <= t ----

   Positions are handled in blocks of COLUMNS. A block on the diagonal has pairs with s > t too, which
   attention must not use: they are computed, and then set to zero. */

/* weights[t][s] = q[t] . k[s] for a block of queries and keys */
INLINE void dots_block(const int queries, const int keys, float *weights, const float *q, const float *k,
                       const int q_row, const int k_row) {
    for_parts {
        vec sum[COLUMNS][COLUMNS] = {0};
        for (int d = 0; d < D; d++) {
            vec left[COLUMNS], right[COLUMNS];
            UNROLL for (int t = 0; t < queries; t++) {
                left[t] = load(q + (t * q_row + d) * LANES + part);
                PIN(left[t]);
            }
            UNROLL for (int s = 0; s < keys; s++) {
                right[s] = load(k + (s * k_row + d) * LANES + part);
                PIN(right[s]);
                UNROLL for (int t = 0; t < queries; t++) sum[t][s] = muladd(left[t], right[s], sum[t][s]);
            }
        }
        UNROLL for (int t = 0; t < queries; t++)
            UNROLL for (int s = 0; s < keys; s++) store(weights + (t * T + s) * LANES + part, sum[t][s]);
    }
}

/* weights[t][s] = q[t] . k[s] for s up to the end of t's block; the factor D^-1/2 is in q already */
INLINE void dots(float *weights, const float *q, const int q_row, const float *k, const int k_row) {
    int t = 0;
    for (; t + COLUMNS <= T; t += COLUMNS)
        for (int s = 0; s <= t; s += COLUMNS)
            dots_block(COLUMNS, COLUMNS, weights + (t * T + s) * LANES, q + t * q_row * LANES,
                       k + s * k_row * LANES, q_row, k_row);
    if (T % COLUMNS) {
        for (int s = 0; s < t; s += COLUMNS)
            dots_block(T % COLUMNS, COLUMNS, weights + (t * T + s) * LANES, q + t * q_row * LANES,
                       k + s * k_row * LANES, q_row, k_row);
        dots_block(T % COLUMNS, T % COLUMNS, weights + (t * T + t) * LANES, q + t * q_row * LANES,
                   k + t * k_row * LANES, q_row, k_row);
    }
}

/* y[r] = sum over i < count of weights[r * w_out + i * w_in] x[i], for a block of rows and features in
   registers */
INLINE void mix_block(const int rows, const int features, const int count, float *y, const int y_row,
                      const float *weights, const int w_out, const int w_in, const float *x,
                      const int x_row) {
    for_parts {
        vec sum[COLUMNS][OUTPUTS] = {0};
        for (int i = 0; i < count; i++) {
            vec weight[COLUMNS];
            UNROLL for (int r = 0; r < rows; r++) {
                weight[r] = load(weights + (r * w_out + i * w_in) * LANES + part);
                PIN(weight[r]);
            }
            UNROLL for (int d = 0; d < features; d++) {
                vec in = load(x + (i * x_row + d) * LANES + part);
                PIN(in);
                UNROLL for (int r = 0; r < rows; r++) sum[r][d] = muladd(weight[r], in, sum[r][d]);
            }
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int d = 0; d < features; d++) store(y + (r * y_row + d) * LANES + part, sum[r][d]);
    }
}

/* The same for all D features of a head. */
INLINE void mix_rows(const int rows, const int count, float *y, const int y_row, const float *weights,
                     const int w_out, const int w_in, const float *x, const int x_row) {
    int d = 0;
    for (; d + OUTPUTS <= D; d += OUTPUTS)
        mix_block(rows, OUTPUTS, count, y + d * LANES, y_row, weights, w_out, w_in, x + d * LANES, x_row);
    if (D % OUTPUTS)
        mix_block(rows, D % OUTPUTS, count, y + d * LANES, y_row, weights, w_out, w_in, x + d * LANES, x_row);
}

/* y[t] = sum over keys s <= t of weights[t][s] x[s] */
INLINE void mix_keys(float *y, const int y_row, const float *weights, const float *x, const int x_row) {
    int t = 0;
    for (; t + COLUMNS <= T; t += COLUMNS)
        mix_rows(COLUMNS, t + COLUMNS, y + t * y_row * LANES, y_row, weights + t * T * LANES, T, 1, x, x_row);
    if (T % COLUMNS)
        mix_rows(T % COLUMNS, T, y + t * y_row * LANES, y_row, weights + t * T * LANES, T, 1, x, x_row);
}

/* y[s] = sum over queries t >= s of weights[t][s] x[t] */
INLINE void mix_queries(float *y, const int y_row, const float *weights, const float *x, const int x_row) {
    int s = 0;
    for (; s + COLUMNS <= T; s += COLUMNS)
        mix_rows(COLUMNS, T - s, y + s * y_row * LANES, y_row, weights + (s * T + s) * LANES, 1, T,
                 x + s * x_row * LANES, x_row);
    if (T % COLUMNS)
        mix_rows(T % COLUMNS, T - s, y + s * y_row * LANES, y_row, weights + (s * T + s) * LANES, 1, T,
                 x + s * x_row * LANES, x_row);
}

/* Set to zero the weights of keys after t up to the end of its block: mix_block reads them too. */
INLINE void clear_future(float *row, const int t) {
    for (int s = t + 1; s < T && s % COLUMNS; s++) for_parts
    store(row + s * LANES + part, (vec){0});
}

/* Each row t of weights, the scores of keys s <= t, becomes its softmax. */
INLINE void softmax_forward(float *weights) {
    for (int t = 0; t < T; t++) {
        float *row = weights + t * T * LANES;
        for_parts {
            vec most = load(row + part), sum = {0};
            for (int s = 1; s <= t; s++) most = larger(load(row + s * LANES + part), most);
            for (int s = 0; s <= t; s++) {
                const vec e = exponential(load(row + s * LANES + part) - most);
                store(row + s * LANES + part, e);
                sum += e;
            }
            const vec inverse = 1.0f / sum;
            for (int s = 0; s <= t; s++)
                store(row + s * LANES + part, load(row + s * LANES + part) * inverse);
        }
        clear_future(row, t);
    }
}

/* dweights, the gradients of the weights, become the gradients of the scores. */
INLINE void softmax_backward(float *dweights, const float *weights) {
    for (int t = 0; t < T; t++) {
        float *drow = dweights + t * T * LANES;
        const float *row = weights + t * T * LANES;
        for_parts {
            vec dot = {0};
            for (int s = 0; s <= t; s++)
                dot = muladd(load(row + s * LANES + part), load(drow + s * LANES + part), dot);
            for (int s = 0; s <= t; s++)
                store(drow + s * LANES + part,
                      load(row + s * LANES + part) * (load(drow + s * LANES + part) - dot));
        }
        clear_future(drow, t);
    }
}

/* q, k, v of layer l -> heads */
static void attention_forward(struct tile *tile, const int l) {
    for (int h = 0; h < H; h++) {
        const float *q = tile->rows[l][0][C + h * D], *k = q + C * LANES, *v = k + C * LANES;
        float *weights = tile->weights[l][h][0][0];
        dots(weights, q, ROW, k, ROW);
        softmax_forward(weights);
        mix_keys(tile->heads[l][0][h * D], ODD(C), weights, v, ROW);
    }
}

/* dheads -> the gradients of q, k, v of layer l, in drows */
static void attention_backward(struct tile *tile, const int l) {
    for (int h = 0; h < H; h++) {
        const float *q = tile->rows[l][0][C + h * D], *k = q + C * LANES, *v = k + C * LANES;
        float *dq = tile->drows[0][C + h * D], *dk = dq + C * LANES, *dv = dk + C * LANES;
        const float *weights = tile->weights[l][h][0][0], *dy = tile->dheads[0][h * D];
        float *dweights = tile->dweights[0][0];
        dots(dweights, dy, ODD(C), v, ROW);
        mix_queries(dv, ROW, weights, dy, ODD(C));
        softmax_backward(dweights, weights);
        mix_keys(dq, ROW, dweights, k, ROW);
        mix_queries(dk, ROW, dweights, q, ROW);
    }
}

/* ---- the model on one tile ---- */

/* What a block computes before attention: x in rows -> norm_1, scale_1, and q, k, v in rows */
static void qkv_forward(struct tile *tile, const struct folded *folded, const int l) {
    layernorm_forward(T, tile->norm_1[l][0][0], tile->scale_1[l][0], tile->rows[0][0][0], ROW);
    linear_forward(T, 3 * C, C, tile->rows[l][0][C], ROW, tile->norm_1[l][0][0], ODD(C), folded->h[l].qkv[0],
                   BIAS ? folded->h[l].qkv_bias : 0, false);
}

/* Its backward: the gradients of q, k, v in drows -> x in drows (added), and the gradients of the weights */
static void qkv_backward(struct tile *tile, const struct folded *folded, struct gradient *gradient,
                         const int l) {
    linear_backward_weight(3 * C, C, gradient->h[l].qkv, gradient->h[l].qkv_bias, tile->drows[0][C], ROW,
                           tile->norm_1[l][0][0], ODD(C));
    linear_backward_input(3 * C, C, tile->dnorm[0][0], ODD(C), tile->drows[0][C], ROW, folded->h[l].qkv[0]);
    layernorm_backward(tile->drows[0][0], ROW, tile->dnorm[0][0], tile->norm_1[l][0][0], tile->scale_1[l][0],
                       true);
}

/* The rest of a block, for `columns` positions: the projection of heads (columns, C), then the MLP, each
   added to x (columns, C) */
INLINE void block_forward(struct tile *tile, const int columns, float *x, const struct params *params,
                          const struct folded *folded, const int l) {
    const struct layer *layer = &params->h[l];
    linear_forward(columns, C, C, x, ROW, tile->heads[l][0][0], ODD(C), layer->proj[0],
                   BIAS ? layer->proj_bias : 0, true);
    layernorm_forward(columns, tile->norm_2[l][0][0], tile->scale_2[l][0], x, ROW);
    linear_forward(columns, F, C, tile->hidden[l][0][0], ODD(F), tile->norm_2[l][0][0], ODD(C),
                   folded->h[l].fc[0], BIAS ? folded->h[l].fc_bias : 0, false);
    gelu_forward(columns, tile->hidden[l][0][0], tile->slope[l][0][0]);
    linear_forward(columns, C, F, x, ROW, tile->hidden[l][0][0], ODD(F), layer->out[0],
                   BIAS ? layer->out_bias : 0, true);
}

/* x (columns, C) -> logits (columns, V): the last layer norm and the head */
INLINE void head_forward(struct tile *tile, const int columns, const float *x, const struct folded *folded) {
    layernorm_forward(columns, tile->norm_f[0][0], tile->scale_f[0], x, ROW);
    linear_forward(columns, V, C, tile->logits[0][0], ODD(V), tile->norm_f[0][0], ODD(C), folded->head[0],
                   BIAS ? folded->head_bias : 0, false);
}

/* The first `layers` blocks. x and the q, k, v of layer 0 are in rows already, from the table. */
INLINE void blocks_forward(struct tile *tile, const struct params *params, const struct folded *folded,
                           const int layers) {
    for (int l = 0; l < layers; l++) {
        if (l > 0) qkv_forward(tile, folded, l);
        attention_forward(tile, l);
        block_forward(tile, T, tile->rows[0][0][0], params, folded, l);
    }
}

/* The whole forward pass, from the rows of layer 0 to the logits. */
static void forward(struct tile *tile, const struct params *params, const struct folded *folded) {
    blocks_forward(tile, params, folded, L);
    head_forward(tile, T, tile->rows[0][0][0], folded);
}

/* The cross-entropy of W windows at one position. right: the logits of the right tokens. -> losses (W,). The
   logits become e^(logit - largest logit), and `sum` the sum of these. */
INLINE vec token_loss(float (*logits)[LANES], const float *right, const int part, vec *sum) {
    vec most = load(logits[0] + part);
    for (int v = 1; v < V; v++) most = larger(load(logits[v] + part), most);
    *sum = (vec){0};
    for (int v = 0; v < V; v++) {
        const vec e = exponential(load(logits[v] + part) - most);
        store(logits[v] + part, e);
        *sum += e;
    }
    return logarithm(*sum) + most - load(right + part);
}

/* Add the losses of the tile, each times its share, to loss (LANES,). The logits become their gradients:
   share times softmax, less share for the right token. */
static void crossentropy(struct tile *tile, float *loss) {
    for (int t = 0; t < T; t++) {
        float(*logits)[LANES] = tile->logits[t], right[LANES] __attribute__((aligned(64)));
        const int32_t *target = tile->ids[t + 1];
        const float *share = tile->share[t];
        for (int i = 0; i < LANES; i++) right[i] = logits[target[i]][i];
        for_parts {
            vec sum;
            const vec of_window = token_loss(logits, right, part, &sum), factor = load(share + part) / sum;
            store(loss + part, muladd(load(share + part), of_window, load(loss + part)));
            for (int v = 0; v < V; v++) store(logits[v] + part, load(logits[v] + part) * factor);
        }
        for (int i = 0; i < LANES; i++) logits[target[i]][i] -= share[i];
    }
}

/* From the gradients of the logits to those of the rows of layer 0, in drows: the steps of forward() in
   reverse order. Gradients of weights are added to `gradient`. */
static void backward(struct tile *tile, const struct params *params, const struct folded *folded,
                     struct gradient *gradient) {
    linear_backward_weight(V, C, gradient->head, gradient->head_bias, tile->logits[0][0], ODD(V),
                           tile->norm_f[0][0], ODD(C));
    linear_backward_input(V, C, tile->dnorm[0][0], ODD(C), tile->logits[0][0], ODD(V), folded->head[0]);
    layernorm_backward(tile->drows[0][0], ROW, tile->dnorm[0][0], tile->norm_f[0][0], tile->scale_f[0],
                       false);
    for (int l = L - 1; l >= 0; l--) {
        const struct layer *layer = &params->h[l];
        linear_backward_weight(C, F, gradient->h[l].out, gradient->h[l].out_bias, tile->drows[0][0], ROW,
                               tile->hidden[l][0][0], ODD(F));
        linear_backward_input(C, F, tile->dhidden[0][0], ODD(F), tile->drows[0][0], ROW, layer->out[0]);
        gelu_backward(tile->dhidden[0][0], tile->slope[l][0][0]);
        linear_backward_weight(F, C, gradient->h[l].fc, gradient->h[l].fc_bias, tile->dhidden[0][0], ODD(F),
                               tile->norm_2[l][0][0], ODD(C));
        linear_backward_input(F, C, tile->dnorm[0][0], ODD(C), tile->dhidden[0][0], ODD(F),
                              folded->h[l].fc[0]);
        layernorm_backward(tile->drows[0][0], ROW, tile->dnorm[0][0], tile->norm_2[l][0][0],
                           tile->scale_2[l][0], true);
        linear_backward_weight(C, C, gradient->h[l].proj, gradient->h[l].proj_bias, tile->drows[0][0], ROW,
                               tile->heads[l][0][0], ODD(C));
        linear_backward_input(C, C, tile->dheads[0][0], ODD(C), tile->drows[0][0], ROW, layer->proj[0]);
        attention_backward(tile, l);
        if (l > 0) qkv_backward(tile, folded, gradient, l);
    }
}

/* ---- the table: a tile whose lanes are tokens instead of windows ---- */

INLINE int min(int a, int b) { return a < b ? a : b; }

/* x of the 16 tokens from `first` on at every position: wte + wpe. Lanes beyond the vocabulary repeat its
   last token. */
static void embed(struct tile *tile, const struct params *params, int first) {
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c++)
            for (int i = 0; i < LANES; i++)
                tile->rows[0][t][c][i] = params->wte[min(first + i, V - 1)][c] + params->wpe[t][c];
}

/* The entries of the 16 tokens from `first` on. A tile has the tokens side by side, an entry its features:
   blocks of W x W are transposed on the way. */
static void table_forward(struct tile *tile, const struct params *params, const struct folded *folded,
                          float table[T][V][ENTRY], int first) {
    embed(tile, params, first);
    qkv_forward(tile, folded, 0);
    for (int t = 0; t < T; t++) for_parts
    for (int f = 0; f < ENTRY; f += W) {
        const int token = first + part;
        vec block[W];
        UNROLL for (int i = 0; i < W; i++) block[i] = load(tile->rows[0][t][f + i] + part);
        transpose(block);
        UNROLL for (int i = 0; i < W; i++)
            if (token + i < V) store(table[t][token + i] + f, block[i]);
    }
}

/* Sum the gradients of the 16 tokens' entries over the chunks, set them to zero there for the next step, and
   pass them on to the weights. x and the layer norm are computed again: the tile has been used for other
   things. */
static void table_backward(struct tile *tile, const struct params *params, struct workspace *workspace,
                           struct gradient *gradient, int first) {
    embed(tile, params, first);
    layernorm_forward(T, tile->norm_1[0][0][0], tile->scale_1[0][0], tile->rows[0][0][0], ROW);
    for (int t = 0; t < T; t++) for_parts
    for (int f = 0; f < ENTRY; f += W) {
        const int token = first + part;
        vec block[W] = {0};
        for (int k = 0; k < CHUNKS; k++)
            UNROLL for (int i = 0; i < W; i++) {
                if (token + i >= V) continue;
                float *entry = workspace->chunks[k].table[t][token + i] + f;
                block[i] += load(entry);
                store(entry, splat(0.0f));
            }
        transpose(block);
        UNROLL for (int i = 0; i < W; i++) store(tile->drows[t][f + i] + part, block[i]);
    }
    qkv_backward(tile, &workspace->folded, gradient, 0);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c++)
            for (int i = 0; i < LANES; i++) gradient->wte[c][first + i] += tile->drows[t][c][i];
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c += LANES) {
            vec total[LANES / W][LANES] = {0};
            for (int k = 0; k < LANES && c + k < C; k++)
                for (int p = 0; p < LANES / W; p++) total[p][k] = load(tile->drows[t][c + k] + p * W);
            add_lane_sums(gradient->wpe[t] + c, total);
        }
}

/* Copy x, q, k, v of layer 0 at the first `columns` positions from the table, for the tokens of the tile. */
static void table_gather(struct tile *tile, const float table[T][V][ENTRY], const int columns) {
    for (int t = 0; t < columns; t++) for_parts
    for (int f = 0; f < ENTRY; f += W) {
        vec block[W];
        UNROLL for (int i = 0; i < W; i++) block[i] = load(table[t][tile->ids[t][part + i]] + f);
        transpose(block);
        UNROLL for (int i = 0; i < W; i++) store(tile->rows[0][t][f + i] + part, block[i]);
    }
}

/* Add the gradients of x, q, k, v of layer 0 to those of the table. */
static void table_scatter(float table[T][V][ENTRY], struct tile *tile) {
    for (int t = 0; t < T; t++) for_parts
    for (int f = 0; f < ENTRY; f += W) {
        vec block[W];
        UNROLL for (int i = 0; i < W; i++) block[i] = load(tile->drows[t][f + i] + part);
        transpose(block);
        UNROLL for (int i = 0; i < W; i++) {
            float *entry = table[t][tile->ids[t][part + i]] + f;
            store(entry, load(entry) + block[i]);
        }
    }
}

/* ---- the step of one replica ---- */

/* Wait for the job's other threads. The last one to arrive starts the next round. A thread that waits for
   long yields: if it went on spinning, it would keep the others from a core that they share. */
static void barrier(struct job *job) {
    const int round = atomic_load(&job->round);
    if (atomic_fetch_add(&job->arrived, 1) == job->threads - 1) {
        atomic_store(&job->arrived, 0);
        atomic_store(&job->taken, 0);
        atomic_store(&job->round, round + 1);
    } else {
        for (int spins = 0; atomic_load(&job->round) == round; spins++)
            if (spins > 1000) sched_yield();
    }
}

/* The number of the next piece of work since the last barrier: 0, 1, 2, ..., each given to one thread. */
static int take(struct job *job) { return atomic_fetch_add(&job->taken, 1); }

/* The distinct windows of a batch in the order of their first draw, and how often each was drawn.
   places[start] is the index of a window among them; it is -1 again at the end. */
static void merge(struct job *job, int64_t step) {
    int count = 0;
    for (int64_t m = 0; m < job->num_micro; m++)
        for (int64_t b = 0; b < job->batch; b++) {
            const int32_t start = (int32_t)job->starts[step * job->stride + m * job->micro_stride + b];
            int place = job->places ? job->places[start] : -1;
            if (place < 0) {
                place = count++;
                job->distinct[place] = start;
                job->counts[place] = 0;
                if (job->places) job->places[start] = place;
            }
            job->counts[place]++;
        }
    for (int i = 0; job->places && i < count; i++) job->places[job->distinct[i]] = -1;
    job->num_distinct = count;
    job->num_targets = job->num_micro * job->batch * T;
}

/* Token t of window w of a batch that is given as text; w counts over all micro-steps. */
static int32_t text_at(const struct job *job, int64_t step, int w, int t) {
    return job->text[step * job->text_stride + w / job->batch * job->text_micro_stride + t * job->batch +
                     w % job->batch];
}

/* Count the windows and the targets of a batch that is given as text. Its windows are not merged. */
static void count_targets(struct job *job, int64_t step) {
    job->num_distinct = (int32_t)(job->num_micro * job->batch);
    job->num_targets = 0;
    for (int w = 0; w < job->num_distinct; w++)
        for (int t = 1; t <= T; t++) job->num_targets += text_at(job, step, w, t) >= 0;
}

/* Folded w and bias of a linear layer that follows a layer norm with gain and shift; see struct folded. The
   first `scaled` outputs are multiplied by `scale`: queries. */
static void fold(const int outs, float w[][C], float *bias, const float from[][C], const float *from_bias,
                 const float *gain, const float *shift, const int scaled, const float scale) {
    for (int o = 0; o < outs; o++) {
        const float s = o < scaled ? scale : 1.0f;
        for (int j = 0; j < C; j++) w[o][j] = from[o][j] * gain[j] * s;
        if (!BIAS) continue;
        float sum = from_bias ? from_bias[o] : 0.0f;
        for (int j = 0; j < C; j++) sum += from[o][j] * shift[j];
        bias[o] = sum * s;
    }
}

static void fold_all(struct folded *folded, const struct params *params) {
    const float scale = 1.0f / sqrtf(D);
    for (int l = 0; l < L; l++) {
        const struct layer *h = &params->h[l];
        fold(3 * C, folded->h[l].qkv, folded->h[l].qkv_bias, h->qkv, h->qkv_bias, h->ln_1, h->ln_1_bias, C,
             scale);
        fold(F, folded->h[l].fc, folded->h[l].fc_bias, h->fc, h->fc_bias, h->ln_2, h->ln_2_bias, 0, 1.0f);
    }
    fold(V, folded->head, folded->head_bias, params->wte, 0, params->ln_f, params->ln_f_bias, 0, 1.0f);
}

/* Read tile `number` of the batch: the tokens of its windows, and their shares. Lanes beyond the batch repeat
   its last window with share 0. */
static void read_tile(struct tile *tile, const struct job *job, int64_t step, int number) {
    const float whole = 1.0f / (float)job->num_targets;
    for (int i = 0; i < LANES; i++) {
        const int w = number * LANES + i, kept = min(w, job->num_distinct - 1);
        const float share = w > kept ? 0.0f : job->text ? whole : (float)job->counts[w] * whole;
        for (int t = 0; t <= T; t++) {
            const int32_t token =
                job->text ? text_at(job, step, kept, t) : job->data[job->distinct[kept] + t];
            tile->ids[t][i] = token < 0 ? 0 : token;
            if (t > 0) tile->share[t - 1][i] = token < 0 ? 0.0f : share;
        }
    }
}

/* Forward and backward for all tiles of a chunk; their gradients are summed in the chunk. */
static void run_chunk(struct job *job, struct tile *tile, int64_t step, int number) {
    struct chunk *chunk = &job->workspace->chunks[number];
    const int tiles = ROUND_UP(job->num_distinct, LANES) / LANES;
    memset(&chunk->gradient, 0, sizeof chunk->gradient);
    for (int i = tiles * number / CHUNKS; i < tiles * (number + 1) / CHUNKS; i++) {
        read_tile(tile, job, step, i);
        table_gather(tile, job->workspace->table, T);
        forward(tile, (struct params *)job->params, &job->workspace->folded);
        crossentropy(tile, chunk->gradient.loss);
        backward(tile, (struct params *)job->params, &job->workspace->folded, &chunk->gradient);
        table_scatter(chunk->table, tile);
    }
}

/* dw (outs, ins) from its packed blocks */
static void unpack(const int outs, const int ins, float *dw, const float *packed) {
    for (int o = 0; o < outs; o += BLOCK_OUTS)
        for (int j = 0; j < ins; j += BLOCK_INS, packed += LANES)
            for (int a = 0; a < min(BLOCK_OUTS, outs - o); a++)
                for (int b = 0; b < min(BLOCK_INS, ins - j); b++)
                    dw[(o + a) * ins + j + b] = packed[a * BLOCK_INS + b];
}

/* The gradients of folded w, dw, and of the folded bias, dfolded -> those of w (in place), of its bias
   (dbias), and of the layer norm's gain and shift (added to dgain and dshift). The chain rule for fold(). */
static void unfold(const int outs, float dw[][C], float *dbias, const float *dfolded, float *dgain,
                   float *dshift, float w[][C], const float *gain, const float *shift, const int scaled,
                   const float scale) {
    for (int o = 0; o < outs; o++) {
        const float s = o < scaled ? scale : 1.0f;
        for (int j = 0; j < C; j++) {
            const float d = dw[o][j] * s;
            dgain[j] += d * w[o][j];
            dw[o][j] = d * gain[j];
            if (BIAS) dshift[j] += dfolded[o] * s * w[o][j];
            if (BIAS) dw[o][j] += dfolded[o] * s * shift[j];
        }
        if (BIAS && dbias) dbias[o] = dfolded[o] * s;
    }
}

/* Sum the gradients of the chunks to that of the batch, in workspace->sum. -> the loss of the batch */
static float reduce(struct workspace *workspace, struct params *params) {
    struct gradient *sum = &workspace->chunks[0].gradient;
    struct params *d = &workspace->sum;
    float *to = (float *)sum;
    for (int k = 1; k < CHUNKS; k++) {
        const float *from = (float *)&workspace->chunks[k].gradient;
        for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) to[i] += from[i];
    }
    memset(d, 0, sizeof *d);
    for (int l = 0; l < L; l++) {
        struct layer *h = &params->h[l], *dh = &d->h[l];
        unpack(3 * C, C, dh->qkv[0], sum->h[l].qkv);
        unpack(C, C, dh->proj[0], sum->h[l].proj);
        unpack(F, C, dh->fc[0], sum->h[l].fc);
        unpack(C, F, dh->out[0], sum->h[l].out);
        unfold(3 * C, dh->qkv, dh->qkv_bias, sum->h[l].qkv_bias, dh->ln_1, dh->ln_1_bias, h->qkv, h->ln_1,
               h->ln_1_bias, C, 1.0f / sqrtf(D));
        unfold(F, dh->fc, dh->fc_bias, sum->h[l].fc_bias, dh->ln_2, dh->ln_2_bias, h->fc, h->ln_2,
               h->ln_2_bias, 0, 1.0f);
        for (int c = 0; BIAS && c < C; c++) {
            dh->proj_bias[c] = sum->h[l].proj_bias[c];
            dh->out_bias[c] = sum->h[l].out_bias[c];
        }
    }
    unpack(V, C, d->wte[0], sum->head);
    unfold(V, d->wte, 0, sum->head_bias, d->ln_f, d->ln_f_bias, params->wte, params->ln_f, params->ln_f_bias,
           0, 1.0f);
    for (int v = 0; v < V; v++)
        for (int c = 0; c < C; c++) d->wte[v][c] += sum->wte[c][v];
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c++) d->wpe[t][c] = sum->wpe[t][c];
    float loss = 0;
    for (int i = 0; i < LANES; i++) loss += sum->loss[i];
    return loss;
}

/* The Euclidean norm, by 16 sums side by side. */
static float norm_of(const float *x, int count) {
    float sums[LANES] = {0}, sum = 0;
    for (int i = 0; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) sums[k] += x[i + k] * x[i + k];
    for (int i = count - count % LANES; i < count; i++) sum += x[i] * x[i];
    for (int k = 0; k < LANES; k++) sum += sums[k];
    return sqrtf(sum);
}

/* base^exponent, by repeated squaring */
static double power(double base, int64_t exponent) {
    double result = 1;
    for (; exponent > 0; exponent /= 2, base *= base)
        if (exponent % 2) result *= base;
    return result;
}

/* The constants of an AdamW step; see update() in tbtt/engine.py. clip: factor of the gradient.
   rate: lr / (1 - beta1^step). root2: sqrt(1 - beta2^step). */
struct adamw {
    float clip, lr, rate, root2, beta1, beta2, decay;
};

/* One step of AdamW on the `count` weights of the replica from index `at` on. decay: whether weight decay
   applies to them */
static void adamw(const struct job *job, const struct adamw *a, size_t at, int count, bool decay) {
    float *restrict w = job->params + at, *restrict m = job->exp_avg + at, *restrict v = job->exp_avg_sq + at;
    const float *restrict d = (const float *)&job->workspace->sum + at;
    const float keep = decay ? 1.0f - a->lr * a->decay : 1.0f;
    for (int i = 0; i < count; i++) {
        const float g = d[i] * a->clip;
        m[i] += (g - m[i]) * (1.0f - a->beta1);
        v[i] = v[i] * a->beta2 + (1.0f - a->beta2) * g * g;
        w[i] = w[i] * keep - a->rate * m[i] / (sqrtf(v[i]) / a->root2 + 1e-8f);
    }
}

/* The index of a field among the weights, its number of floats, and AdamW on it. */
#define PLACE(of, field) ((size_t)((const float *)(of)->field - (const float *)params))
#define COUNT(of, field) ((int)(sizeof(of)->field / sizeof(float)))
#define DECAYED(of, field) adamw(job, &a, PLACE(of, field), COUNT(of, field), true)
#define NOT_DECAYED(of, field) adamw(job, &a, PLACE(of, field), COUNT(of, field), false)

/* Clip the gradient and take a step of AdamW. Weight decay applies to matrices and embeddings, not to gains
   and biases. */
static void update(struct job *job, float lr) {
    const struct params *params = (const struct params *)job->params;
    /* Beyond 1e9 steps the constants no longer change. */
    const int64_t steps = (int64_t)(*job->step < 1e9f ? *job->step : 1e9f) + 1;
    float clip = 1;
    if (job->grad_clip > 0) {
        clip = (float)job->grad_clip / (norm_of((float *)&job->workspace->sum, NUM_PARAMS) + 1e-6f);
        if (clip > 1) clip = 1;
    }
    const struct adamw a = {clip,
                            lr,
                            lr / (float)(1 - power(job->beta1, steps)),
                            sqrtf((float)(1 - power(job->beta2, steps))),
                            (float)job->beta1,
                            (float)job->beta2,
                            (float)job->weight_decay};
    DECAYED(params, wte);
    DECAYED(params, wpe);
    for (int l = 0; l < L; l++) {
        const struct layer *h = &params->h[l];
        NOT_DECAYED(h, ln_1);
        NOT_DECAYED(h, ln_1_bias);
        DECAYED(h, qkv);
        NOT_DECAYED(h, qkv_bias);
        DECAYED(h, proj);
        NOT_DECAYED(h, proj_bias);
        NOT_DECAYED(h, ln_2);
        NOT_DECAYED(h, ln_2_bias);
        DECAYED(h, fc);
        NOT_DECAYED(h, fc_bias);
        DECAYED(h, out);
        NOT_DECAYED(h, out_bias);
    }
    NOT_DECAYED(params, ln_f);
    NOT_DECAYED(params, ln_f_bias);
    *job->step = (float)steps;
}

/* From now on, this thread treats denormal numbers (below 1e-38) as zero. In the tails of a softmax each
   would cost a hundred cycles, and the smallest number that makes a difference to AdamW is far larger. -> the
   setting before, for restore_denormals */
static uint64_t flush_denormals(void) {
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1 << 24));
    return before;
#else
    return 0;
#endif
}

static void restore_denormals(uint64_t before) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

/* Make the table, together with the other threads. */
static void table_tiles(struct job *job, struct tile *tile) {
    for (int i; (i = take(job)) < TOKENS / LANES;)
        table_forward(tile, (struct params *)job->params, &job->workspace->folded, job->workspace->table,
                      i * LANES);
}

/* What thread `thread` of a job does. In each step, with barriers in between: thread 0 merges the batch (or
   counts the targets of a batch of text) and folds the weights; all make the table; all run the chunks; all
   pass on the table's gradients; thread 0 sums the gradients and updates the weights, or writes the gradient
   to job->gradient if that is not null. */
void train(struct job *job, int thread) {
    struct workspace *workspace = job->workspace;
    struct params *params = (struct params *)job->params;
    struct tile *tile = &workspace->tiles[thread];
    const uint64_t denormals = flush_denormals();
    for (int64_t step = 0; step < job->num_steps; step++) {
        if (thread == 0) {
            if (job->text)
                count_targets(job, step);
            else
                merge(job, step);
            fold_all(&workspace->folded, params);
        }
        barrier(job);
        table_tiles(job, tile);
        barrier(job);
        for (int i; (i = take(job)) < CHUNKS;) run_chunk(job, tile, step, i);
        barrier(job);
        /* The gradient of chunk k takes the table's tiles k, k + CHUNKS, ... in this order, whatever the
           number of threads. */
        for (int k; (k = take(job)) < CHUNKS;)
            for (int i = k; i < TOKENS / LANES; i += CHUNKS)
                table_backward(tile, params, workspace, &workspace->chunks[k].gradient, i * LANES);
        barrier(job);
        if (thread == 0) {
            job->losses[step * job->loss_stride] = reduce(workspace, params);
            if (job->gradient)
                memcpy(job->gradient, &workspace->sum, sizeof *params);
            else
                update(job, job->lr[step]);
        }
    }
    restore_denormals(denormals);
}

/* ---- evaluation ---- */

/* What a forward pass needs of a replica. */
struct model {
    struct params params;
    struct folded folded;
    float table[T][V][ENTRY] __attribute__((aligned(64)));
    bool made;
} __attribute__((aligned(64)));

/* Make the model of some weights, unless it was made of the same weights before. */
void make(struct model *model, struct workspace *workspace, const float *weights) {
    if (model->made && !memcmp(&model->params, weights, sizeof model->params)) return;
    const uint64_t denormals = flush_denormals();
    memcpy(&model->params, weights, sizeof model->params);
    fold_all(&model->folded, &model->params);
    for (int i = 0; i < TOKENS; i += LANES)
        table_forward(workspace->tiles, &model->params, &model->folded, model->table, i);
    model->made = true;
    restore_denormals(denormals);
}

/* How many windows of a batch are in the tile that begins with window `begin`. */
static int windows_in(int64_t batch, int64_t begin) {
    return batch - begin < LANES ? (int)(batch - begin) : LANES;
}

/* Read the windows from `begin` on, of tokens (columns, batch), into a tile, and gather the first `gathered`
   rows of layer 0. Positions beyond `columns` get token 0: attention looks only backward, so they change
   nothing. Lanes beyond the batch repeat window `begin`, and nobody reads their results. */
static void read_windows(struct tile *tile, const struct model *model, const int32_t *tokens, int64_t columns,
                         int64_t batch, int64_t begin, int gathered) {
    const int count = windows_in(batch, begin);
    for (int t = 0; t < gathered; t++)
        for (int i = 0; i < LANES; i++) {
            const int32_t token = t < columns ? tokens[t * batch + begin + (i < count ? i : 0)] : 0;
            tile->ids[t][i] = token < 0 ? 0 : token;
        }
    table_gather(tile, model->table, gathered);
}

/* Logits (V, columns, batch) of tokens (columns, batch), columns <= T, for tiles first to last - 1 of the
   batch. */
void infer(struct workspace *workspace, const struct model *model, const int32_t *tokens, int64_t columns,
           int64_t batch, int64_t first, int64_t last, float *logits) {
    struct tile *tile = workspace->tiles;
    const uint64_t denormals = flush_denormals();
    for (int64_t begin = first * LANES; begin < last * LANES; begin += LANES) {
        read_windows(tile, model, tokens, columns, batch, begin, T);
        forward(tile, &model->params, &model->folded);
        for (int v = 0; v < V; v++)
            for (int64_t t = 0; t < columns; t++)
                memcpy(logits + (v * columns + t) * batch + begin, tile->logits[t][v],
                       (size_t)windows_in(batch, begin) * sizeof(float));
    }
    restore_denormals(denormals);
}

/* Losses (columns, batch) of each token after the first of text (columns + 1, batch), for tiles first to
   last - 1 of the batch; 0 where the token is negative, which is no target. */
void token_losses(struct workspace *workspace, const struct model *model, const int32_t *text,
                  int64_t columns, int64_t batch, int64_t first, int64_t last, float *losses) {
    struct tile *tile = workspace->tiles;
    const uint64_t denormals = flush_denormals();
    for (int64_t begin = first * LANES; begin < last * LANES; begin += LANES) {
        const int count = windows_in(batch, begin);
        read_windows(tile, model, text, columns, batch, begin, T);
        forward(tile, &model->params, &model->folded);
        for (int64_t t = 0; t < columns; t++) {
            const int32_t *target = text + (t + 1) * batch + begin;
            float loss[LANES] __attribute__((aligned(64))) = {0};
            for (int i = 0; i < count; i++) loss[i] = target[i] < 0 ? 0 : tile->logits[t][target[i]][i];
            for_parts {
                vec sum;
                store(loss + part, token_loss(tile->logits[t], loss, part, &sum));
            }
            for (int i = 0; i < count; i++) losses[t * batch + begin + i] = target[i] < 0 ? 0 : loss[i];
        }
    }
    restore_denormals(denormals);
}

/* Attention of the last block at one position in each lane, position (LANES,), each below `columns`. The
   queries of these positions are column 0 of drows, and the result is column 0 of heads. Later keys get
   weight 0. */
static void attention_at(struct tile *tile, const int32_t *position, const int columns) {
    for (int h = 0; h < H; h++) {
        const float *q = tile->drows[0][C + h * D], *k = tile->rows[L - 1][0][2 * C + h * D];
        float *weights = tile->weights[L - 1][h][0][0];
        for (int s = 0; s < columns; s++)
            dots_block(1, 1, weights + s * LANES, q, k + s * ROW * LANES, ROW, ROW);
        for_parts {
            const ivec last = *(const ivec *)(position + part);
            vec most = load(weights + part), sum = {0};
            for (int s = 1; s < columns; s++)
                most = choose(s <= last, larger(load(weights + s * LANES + part), most), most);
            for (int s = 0; s < columns; s++) {
                const vec e = exponential(load(weights + s * LANES + part) - most);
                store(weights + s * LANES + part, choose(s <= last, e, splat(0.0f)));
                sum += load(weights + s * LANES + part);
            }
            const vec inverse = 1.0f / sum;
            for (int s = 0; s < columns; s++)
                store(weights + s * LANES + part, load(weights + s * LANES + part) * inverse);
        }
        mix_rows(1, columns, tile->heads[L - 1][0][h * D], ODD(C), weights, T, 1, k + C * LANES, ROW);
    }
}

/* Logits (V, batch) at position (batch,) of each window of tokens (columns, batch), with the same bits as
   infer(). The last block computes q, k, v at all positions, and everything else at that position alone. Its
   column of x and q is copied to column 0 of drows, which is free here. */
void infer_at(struct workspace *workspace, const struct model *model, const int32_t *tokens,
              const int32_t *position, int64_t columns, int64_t batch, float *logits) {
    struct tile *tile = workspace->tiles;
    const struct folded *folded = &model->folded;
    const uint64_t denormals = flush_denormals();
    for (int64_t begin = 0; begin < batch; begin += LANES) {
        const int count = windows_in(batch, begin);
        int32_t at[LANES] __attribute__((aligned(64))) = {0};
        memcpy(at, position + begin, (size_t)count * sizeof *at);
        read_windows(tile, model, tokens, columns, batch, begin, L > 1 ? T : (int)columns);
        blocks_forward(tile, &model->params, folded, L - 1);
        if (L > 1) qkv_forward(tile, folded, L - 1);
        for (int c = 0; c < C; c++)
            for (int i = 0; i < LANES; i++) {
                tile->drows[0][c][i] = tile->rows[0][at[i]][c][i];
                tile->drows[0][C + c][i] = tile->rows[L - 1][at[i]][C + c][i];
            }
        attention_at(tile, at, (int)columns);
        block_forward(tile, 1, tile->drows[0][0], &model->params, folded, L - 1);
        head_forward(tile, 1, tile->drows[0][0], folded);
        for (int v = 0; v < V; v++)
            memcpy(logits + v * batch + begin, tile->logits[0][v], (size_t)count * sizeof(float));
    }
    restore_denormals(denormals);
}

/* Random starts (count, batch) of windows, from 0 to high - 1: the numbers of `integers` in tbtt/rng.py.
   states (count,) are its chain of all keys but the last, and the last key is b = 0, 1, ... */
void draw(const int64_t *states, int64_t count, int64_t batch, int64_t high, int64_t *starts) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t b = 0; b < batch; b++) {
            uint64_t x = (uint64_t)states[i] + (uint64_t)(b + 1) * 0x9E3779B97F4A7C15;
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
            x = (x ^ x >> 27) * 0x94D049BB133111EB;
            starts[i * batch + b] = (int64_t)(((x ^ x >> 31) >> 33) * (uint64_t)high >> 31);
        }
}

int64_t num_params(void) { return NUM_PARAMS; }
int64_t model_bytes(void) { return sizeof(struct model); }
int64_t workspace_bytes(int threads) {
    return (int64_t)(sizeof(struct workspace) + (size_t)threads * sizeof(struct tile));
}
