//! The layers of a blocked transform on the lanes of one instruction set.
#![expect(clippy::inline_always, reason = "instructions are enabled around the whole transform")]
#![expect(
    clippy::needless_range_loop,
    reason = "an index up to a constant is unrolled, x stays in registers"
)]
#![expect(clippy::large_stack_arrays, reason = "the scratch has the size of the first cache")]

use super::{Order, RUN, Step, Table};
use crate::backend::cpu::kernels::Constants;
use crate::backend::cpu::lanes::{Butterflies, Lanes, REGISTERS};

/// Words of a column block: a cache line.
const LINE: usize = 8;
/// Words of the scratch: a column block of the largest degree, 2^17.
const SCRATCH: usize = LINE << 9;

/// Column blocks while they are worked on.
#[repr(align(64))]
struct Scratch([u64; SCRATCH]);

/// One direction of a transform on the lanes of one instruction set.
pub(super) struct Layers<'a, L: Butterflies> {
    s: L,
    w: L::Prime,
    order: &'a Order,
    table: &'a Table,
}

/// Rows of vectors on which layers work, and where they go.
trait Rows<L: Lanes> {
    /// Vectors of a row.
    const LANES: usize;
    /// Vectors from one row to the next.
    const FROM: usize;
    const TO: usize;
    fn source(&self) -> &[L::Words];
    fn target(&mut self) -> &mut [L::Words];
}

/// A run of the second pass: rows of one vector.
struct Run<'a, L: Lanes>(&'a mut [L::Words]);

impl<L: Lanes> Rows<L> for Run<'_, L> {
    const LANES: usize = 1;
    const FROM: usize = 1;
    const TO: usize = 1;

    #[inline(always)]
    fn source(&self) -> &[L::Words] {
        self.0
    }

    #[inline(always)]
    fn target(&mut self) -> &mut [L::Words] {
        self.0
    }
}

/// A column block of the first pass, from and to its place in the data or the scratch.
struct Columns<'a, L: Lanes, const FROM_DATA: bool, const TO_DATA: bool> {
    /// From the first vector of the block.
    data: &'a mut [L::Words],
    scratch: &'a mut [L::Words],
}

impl<L: Butterflies, const FROM_DATA: bool, const TO_DATA: bool> Rows<L>
    for Columns<'_, L, FROM_DATA, TO_DATA>
{
    const LANES: usize = LINE >> L::LOG_WIDTH;
    const FROM: usize = (if FROM_DATA { RUN } else { LINE }) >> L::LOG_WIDTH;
    const TO: usize = (if TO_DATA { RUN } else { LINE }) >> L::LOG_WIDTH;

    #[inline(always)]
    fn source(&self) -> &[L::Words] {
        if FROM_DATA { self.data } else { self.scratch }
    }

    #[inline(always)]
    fn target(&mut self) -> &mut [L::Words] {
        if TO_DATA { self.data } else { self.scratch }
    }
}

/// `$body` with the constants of a step within the limits of an instruction set: layers, whether it normalises, and the
/// rows between two values that meet, 0 where these are not one of the listed and known at run time only.
macro_rules! with_step {
    ($step:expr, $gap:expr, $largest:expr, [$($gaps:literal)*], |$layers:ident, $norm:ident, $const_gap:ident| $body:expr) => {{
        macro_rules! arm {
            ($l:literal, $n:literal, $g:literal) => {{
                const $layers: usize = $l;
                const $norm: bool = $n;
                const $const_gap: usize = $g;
                $body
            }};
        }
        match ($step.layers, $step.norm, $gap) {
            $(
                (2, false, $gaps) if $largest == 2 => arm!(2, false, $gaps),
                (2, true, $gaps) if $largest == 2 => arm!(2, true, $gaps),
                (3, false, $gaps) if $largest == 4 => arm!(3, false, $gaps),
                (3, true, $gaps) if $largest == 4 => arm!(3, true, $gaps),
                (4, false, $gaps) if $largest == 4 => arm!(4, false, $gaps),
                (4, true, $gaps) if $largest == 4 => arm!(4, true, $gaps),
            )*
            (1, false, _) => arm!(1, false, 0),
            (1, true, _) => arm!(1, true, 0),
            (2, false, _) => arm!(2, false, 0),
            (2, true, _) => arm!(2, true, 0),
            (3, false, _) if $largest == 4 => arm!(3, false, 0),
            (3, true, _) if $largest == 4 => arm!(3, true, 0),
            (4, false, _) if $largest == 4 => arm!(4, false, 0),
            (4, true, _) if $largest == 4 => arm!(4, true, 0),
            // `Order` plans no longer step than the instruction set takes.
            (layers, ..) => debug_assert!(false, "a step of {layers} layers"),
        }
    }};
}

/// Words of the twiddle factors of one block of a step.
const fn block_twiddles<L: Butterflies>(layers: usize) -> usize {
    ((1 << layers) - 1) * L::TWIDDLE
}

impl Step {
    /// Without normalisation: inverse layers have their own.
    fn bare(self) -> Self {
        Self { norm: false, ..self }
    }

    /// Words of its twiddle factors.
    fn twiddles<L: Butterflies>(self) -> usize {
        block_twiddles::<L>(self.layers) << self.first
    }
}

impl<'a, L: Butterflies> Layers<'a, L> {
    #[inline(always)]
    pub(super) fn new(s: L, c: &Constants, order: &'a Order, table: &'a Table) -> Self {
        Self { s, w: s.prime(c), order, table }
    }

    /// The first pass.
    #[inline(always)]
    pub(super) fn columns_forward(&self, words: &mut [u64]) {
        let s = self.s;
        let columns = &self.order.columns;
        let rows = words.len() / RUN;
        let mut scratch = Scratch([0; SCRATCH]);
        let width = 1 << L::LOG_WIDTH;
        for column in (0..RUN / width).step_by(LINE / width) {
            let mut twiddles = &self.table.columns[..];
            for (i, step) in columns.iter().enumerate() {
                let (own, rest) = twiddles.split_at(step.twiddles::<L>());
                twiddles = rest;
                let (data, scratch) = (s.split_mut(words), s.split_mut(&mut scratch.0));
                let data = &mut data[column..];
                let gap = rows >> (step.first + step.layers);
                if i == 0 {
                    with_step!(step, gap, L::STEP, [64 32 16 8], |LAYERS, NORM, GAP| {
                        let io = Columns::<L, true, false> { data, scratch };
                        self.step_forward::<LAYERS, NORM, true, GAP, _>(io, gap, own);
                    });
                } else if gap == 1 {
                    with_step!(step, gap, L::STEP, [1], |LAYERS, NORM, GAP| {
                        let io = Columns::<L, false, true> { data, scratch };
                        self.step_forward::<LAYERS, NORM, false, GAP, _>(io, gap, own);
                    });
                } else {
                    with_step!(step, gap, L::STEP, [16 8 4], |LAYERS, NORM, GAP| {
                        let io = Columns::<L, false, false> { data, scratch };
                        self.step_forward::<LAYERS, NORM, false, GAP, _>(io, gap, own);
                    });
                }
            }
        }
    }

    /// The second pass of runs from the one with index `first` on.
    #[inline(always)]
    pub(super) fn runs_forward(&self, first: usize, words: &mut [u64]) {
        let s = self.s;
        for (run, mut twiddles) in words.chunks_exact_mut(RUN).zip(self.table.runs().skip(first)) {
            let run = s.split_mut(run);
            for step in &self.order.runs {
                let (own, rest) = twiddles.split_at(step.twiddles::<L>());
                twiddles = rest;
                let gap = (RUN >> L::LOG_WIDTH) >> (step.first + step.layers);
                with_step!(step, gap, L::STEP, [16 4 2 1], |LAYERS, NORM, GAP| {
                    self.step_forward::<LAYERS, NORM, false, GAP, _>(Run::<L>(run), gap, own);
                });
            }
            if self.order.norm {
                self.squares_forward::<true>(run, twiddles);
            } else {
                self.squares_forward::<false>(run, twiddles);
            }
        }
    }

    /// One step on all rows; with `FRESH` these are residues.
    #[inline(always)]
    fn step_forward<
        const LAYERS: usize,
        const NORM: bool,
        const FRESH: bool,
        const GAP: usize,
        R: Rows<L>,
    >(
        &self,
        mut io: R,
        gap: usize,
        twiddles: &[u64],
    ) {
        let s = self.s;
        let gap = if GAP > 0 { GAP } else { gap };
        let blocks = twiddles.chunks_exact(block_twiddles::<L>(LAYERS));
        for (block, twiddles) in blocks.enumerate() {
            for row in 0..gap {
                for lane in 0..R::LANES {
                    let row = ((block * gap) << LAYERS) + row;
                    let mut x = load::<L, LAYERS, FRESH, R>(s, &io, row, gap, lane);
                    let twiddle = |i| s.broadcast(&twiddles[i * L::TWIDDLE..]);
                    radix_forward::<L, LAYERS, NORM>(s, &self.w, &mut x, twiddle);
                    let to = window::<L, LAYERS, R>(&mut io, row, gap, lane);
                    for k in 0..1 << LAYERS {
                        to[k * gap * R::TO] = s.put(x[k]);
                    }
                }
            }
        }
    }

    /// The last layers of a run.
    #[inline(always)]
    fn squares_forward<const NORM: bool>(&self, run: &mut [L::Words], twiddles: &[u64]) {
        let (s, w, width) = (self.s, &self.w, 1 << L::LOG_WIDTH);
        let squares = run.chunks_exact_mut(width);
        let size = twiddles.len() / squares.len();
        for (i, square) in squares.enumerate() {
            let table = &twiddles[i * size..(i + 1) * size];
            let mut x = [s.get(square[0]); REGISTERS];
            for k in 0..width {
                x[k] = s.get(square[k]);
            }
            let (pairs, inside) = table.split_at(pair_twiddles::<L>());
            if L::PAIRED {
                for k in 0..width / 2 {
                    let f = s.broadcast(&pairs[k * L::TWIDDLE..]);
                    (x[2 * k], x[2 * k + 1]) = s.butterfly::<NORM>(w, x[2 * k], x[2 * k + 1], f);
                }
            }
            s.transpose(&mut x);
            let twiddle = |i| s.gather(&inside[i * L::TWIDDLE * width..]);
            match L::LOG_WIDTH {
                2 => radix_forward::<L, 2, NORM>(s, w, &mut x, twiddle),
                3 => radix_forward::<L, 3, false>(s, w, &mut x, twiddle),
                _ => {}
            }
            s.transpose(&mut x);
            for k in 0..width {
                square[k] = s.store(s.narrow(w, x[k]));
            }
        }
    }

    #[inline(always)]
    pub(super) fn inverse(
        &self,
        c: &Constants,
        from: Option<&[u64]>,
        words: &mut [u64],
        factor: u64,
        constant: u64,
    ) {
        let s = self.s;
        let Order { columns, runs, .. } = self.order;
        let rows = words.len() / RUN;
        let width = 1 << L::LOG_WIDTH;
        let runs_and_tables = words.chunks_exact_mut(RUN).zip(self.table.runs());
        for (i, (run, mut twiddles)) in runs_and_tables.enumerate() {
            if let Some(from) = from {
                run.copy_from_slice(&from[i * RUN..(i + 1) * RUN]);
            }
            let run = s.split_mut(run);
            let before: usize = runs.iter().map(|step| step.twiddles::<L>()).sum();
            self.squares_inverse(run, &twiddles[before..]);
            twiddles = &twiddles[..before];
            for step in runs.iter().rev() {
                let (rest, own) = twiddles.split_at(twiddles.len() - step.twiddles::<L>());
                twiddles = rest;
                let gap = (RUN / width) >> (step.first + step.layers);
                with_step!(step.bare(), gap, L::STEP, [16 4 2 1], |LAYERS, _NORM, GAP| {
                    self.step_inverse::<LAYERS, GAP, _>(Run::<L>(run), gap, own);
                });
            }
        }
        let mut scratch = Scratch([0; SCRATCH]);
        let scale = L::twiddle(c, factor);
        let outermost = L::twiddle(c, c.modulus.mul(self.table.outermost, factor));
        let last = Last { scale, outermost, constant };
        for column in (0..RUN / width).step_by(LINE / width) {
            let mut twiddles = &self.table.columns[..];
            for (i, step) in columns.iter().enumerate().rev() {
                let (rest, own) = twiddles.split_at(twiddles.len() - step.twiddles::<L>());
                twiddles = rest;
                let (data, scratch) = (s.split_mut(words), s.split_mut(&mut scratch.0));
                let data = &mut data[column..];
                let gap = rows >> (step.first + step.layers);
                if i == 0 {
                    with_step!(step.bare(), gap, L::STEP, [64 32 16 8], |LAYERS, _NORM, GAP| {
                        let io = Columns::<L, false, true> { data, scratch };
                        self.step_outermost::<LAYERS, GAP, _>(io, gap, own, &last);
                    });
                } else if gap == 1 {
                    with_step!(step.bare(), gap, L::STEP, [1], |LAYERS, _NORM, GAP| {
                        let io = Columns::<L, true, false> { data, scratch };
                        self.step_inverse::<LAYERS, GAP, _>(io, gap, own);
                    });
                } else {
                    with_step!(step.bare(), gap, L::STEP, [16 8 4], |LAYERS, _NORM, GAP| {
                        let io = Columns::<L, false, false> { data, scratch };
                        self.step_inverse::<LAYERS, GAP, _>(io, gap, own);
                    });
                }
            }
        }
    }

    #[inline(always)]
    fn step_inverse<const LAYERS: usize, const GAP: usize, R: Rows<L>>(
        &self,
        mut io: R,
        gap: usize,
        twiddles: &[u64],
    ) {
        let s = self.s;
        let gap = if GAP > 0 { GAP } else { gap };
        let blocks = twiddles.chunks_exact(block_twiddles::<L>(LAYERS));
        for (block, twiddles) in blocks.enumerate() {
            for row in 0..gap {
                for lane in 0..R::LANES {
                    let row = ((block * gap) << LAYERS) + row;
                    let mut x = load::<L, LAYERS, false, R>(s, &io, row, gap, lane);
                    let twiddle = |i| s.broadcast(&twiddles[i * L::TWIDDLE..]);
                    radix_inverse::<L, LAYERS, false>(s, &self.w, &mut x, twiddle);
                    let to = window::<L, LAYERS, R>(&mut io, row, gap, lane);
                    for k in 0..1 << LAYERS {
                        to[k * gap * R::TO] = s.put(x[k]);
                    }
                }
            }
        }
    }

    /// The step with the outermost layer, which is followed by the factor and the constant.
    #[inline(always)]
    fn step_outermost<const LAYERS: usize, const GAP: usize, R: Rows<L>>(
        &self,
        mut io: R,
        gap: usize,
        twiddles: &[u64],
        last: &Last,
    ) {
        let (s, w) = (self.s, &self.w);
        let gap = if GAP > 0 { GAP } else { gap };
        let (p, constant) = (s.modulus(w), s.splat(last.constant));
        for row in 0..gap {
            for lane in 0..R::LANES {
                let mut x = load::<L, LAYERS, false, R>(s, &io, row, gap, lane);
                let twiddle = |i| {
                    let words = if i == 0 { &last.outermost } else { &twiddles[i * L::TWIDDLE..] };
                    s.broadcast(words)
                };
                radix_inverse::<L, LAYERS, true>(s, w, &mut x, twiddle);
                for k in 0..1 << (LAYERS - 1) {
                    x[k] = s.lazy_times(w, x[k], s.broadcast(&last.scale));
                }
                let to = window::<L, LAYERS, R>(&mut io, row, gap, lane);
                for k in 0..1 << LAYERS {
                    let sum = s.add(s.narrow(w, x[k]), constant);
                    to[k * gap * R::TO] = s.store(s.fold(sum, p));
                }
            }
        }
    }

    /// The first layers of a run.
    #[inline(always)]
    fn squares_inverse(&self, run: &mut [L::Words], twiddles: &[u64]) {
        let (s, w, width) = (self.s, &self.w, 1 << L::LOG_WIDTH);
        let squares = run.chunks_exact_mut(width);
        let size = twiddles.len() / squares.len();
        for (i, square) in squares.enumerate() {
            let table = &twiddles[i * size..(i + 1) * size];
            let mut x = [s.widen(square[0]); REGISTERS];
            for k in 0..width {
                x[k] = s.widen(square[k]);
            }
            let (pairs, inside) = table.split_at(pair_twiddles::<L>());
            s.transpose(&mut x);
            let twiddle = |i| s.gather(&inside[i * L::TWIDDLE * width..]);
            match L::LOG_WIDTH {
                2 => radix_inverse::<L, 2, false>(s, w, &mut x, twiddle),
                3 => radix_inverse::<L, 3, false>(s, w, &mut x, twiddle),
                _ => {}
            }
            s.transpose(&mut x);
            if L::PAIRED {
                for k in 0..width / 2 {
                    let f = s.broadcast(&pairs[k * L::TWIDDLE..]);
                    (x[2 * k], x[2 * k + 1]) = s.inverse_butterfly(w, x[2 * k], x[2 * k + 1], f);
                    x[2 * k] = s.tame(w, x[2 * k]);
                }
            }
            for k in 0..width {
                square[k] = s.put(x[k]);
            }
        }
    }
}

/// The values that meet in a step: one vector out of every gap of rows.
#[inline(always)]
fn load<L: Butterflies, const LAYERS: usize, const FRESH: bool, R: Rows<L>>(
    s: L,
    io: &R,
    row: usize,
    gap: usize,
    lane: usize,
) -> [L::Lazy; REGISTERS] {
    let first = row * R::FROM + lane;
    let last = first + ((1 << LAYERS) - 1) * gap * R::FROM;
    let from = &io.source()[first..=last];
    let mut x = [s.get(from[0]); REGISTERS];
    for k in 0..1 << LAYERS {
        let words = from[k * gap * R::FROM];
        x[k] = if FRESH { s.widen(words) } else { s.get(words) };
    }
    x
}

/// Where these values go.
#[inline(always)]
fn window<L: Butterflies, const LAYERS: usize, R: Rows<L>>(
    io: &mut R,
    row: usize,
    gap: usize,
    lane: usize,
) -> &mut [L::Words] {
    let first = row * R::TO + lane;
    let last = first + ((1 << LAYERS) - 1) * gap * R::TO;
    &mut io.target()[first..=last]
}

/// What follows the outermost layer of an inverse transform.
struct Last {
    /// The factor, as a twiddle, and the outermost twiddle times it.
    scale: [u64; 2],
    outermost: [u64; 2],
    constant: u64,
}

/// Words of the twiddle factors of the layer between the vectors of a square.
const fn pair_twiddles<L: Butterflies>() -> usize {
    if L::PAIRED { L::TWIDDLE << (L::LOG_WIDTH - 1) } else { 0 }
}

/// Two layers on four of the values.
#[inline(always)]
fn quad_forward<L: Butterflies, const NORM: bool>(
    s: L,
    w: &L::Prime,
    x: &mut [L::Lazy; REGISTERS],
    [i, j, k, l]: [usize; 4],
    [f, g, h]: [L::Twiddle; 3],
) {
    let (a, c) = s.butterfly::<NORM>(w, x[i], x[k], f);
    let (b, d) = s.butterfly::<NORM>(w, x[j], x[l], f);
    (x[i], x[j]) = s.butterfly::<false>(w, a, b, g);
    (x[k], x[l]) = s.butterfly::<false>(w, c, d, h);
}

/// `LAYERS` layers on 2^LAYERS values; twiddle factors by layer, then by block.
#[inline(always)]
fn radix_forward<L: Butterflies, const LAYERS: usize, const NORM: bool>(
    s: L,
    w: &L::Prime,
    x: &mut [L::Lazy; REGISTERS],
    f: impl Fn(usize) -> L::Twiddle,
) {
    match LAYERS {
        1 => (x[0], x[1]) = s.butterfly::<NORM>(w, x[0], x[1], f(0)),
        2 => quad_forward::<L, NORM>(s, w, x, [0, 1, 2, 3], [f(0), f(1), f(2)]),
        3 => {
            for i in 0..4 {
                (x[i], x[i + 4]) = s.butterfly::<NORM>(w, x[i], x[i + 4], f(0));
            }
            quad_forward::<L, false>(s, w, x, [0, 1, 2, 3], [f(1), f(3), f(4)]);
            quad_forward::<L, false>(s, w, x, [4, 5, 6, 7], [f(2), f(5), f(6)]);
        }
        _ => {
            for i in 0..4 {
                let four = [i, i + 4, i + 8, i + 12];
                quad_forward::<L, NORM>(s, w, x, four, [f(0), f(1), f(2)]);
            }
            for i in 0..4 {
                let four = [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3];
                let factors = [f(3 + i), f(7 + 2 * i), f(8 + 2 * i)];
                quad_forward::<L, false>(s, w, x, four, factors);
            }
        }
    }
}

/// Undoes [`quad_forward`] but for factors of two; the sums of sums are not tamed with `OPEN`.
#[inline(always)]
fn quad_inverse<L: Butterflies, const OPEN: bool>(
    s: L,
    w: &L::Prime,
    x: &mut [L::Lazy; REGISTERS],
    [i, j, k, l]: [usize; 4],
    [f, g, h]: [L::Twiddle; 3],
) {
    let (a, b) = s.inverse_butterfly(w, x[i], x[j], g);
    let (c, d) = s.inverse_butterfly(w, x[k], x[l], h);
    (x[i], x[k]) = s.inverse_butterfly(w, a, c, f);
    (x[j], x[l]) = s.inverse_butterfly(w, b, d, f);
    if !OPEN {
        x[i] = s.tame(w, x[i]);
        x[j] = s.tame(w, x[j]);
    }
}

/// Undoes [`radix_forward`] but for factors of two; the last sums are not tamed with `OPEN`.
#[inline(always)]
fn radix_inverse<L: Butterflies, const LAYERS: usize, const OPEN: bool>(
    s: L,
    w: &L::Prime,
    x: &mut [L::Lazy; REGISTERS],
    f: impl Fn(usize) -> L::Twiddle,
) {
    match LAYERS {
        1 => {
            (x[0], x[1]) = s.inverse_butterfly(w, x[0], x[1], f(0));
            if !OPEN {
                x[0] = s.tame(w, x[0]);
            }
        }
        2 => quad_inverse::<L, OPEN>(s, w, x, [0, 1, 2, 3], [f(0), f(1), f(2)]),
        3 => {
            quad_inverse::<L, false>(s, w, x, [0, 1, 2, 3], [f(1), f(3), f(4)]);
            quad_inverse::<L, false>(s, w, x, [4, 5, 6, 7], [f(2), f(5), f(6)]);
            for i in 0..4 {
                (x[i], x[i + 4]) = s.inverse_butterfly(w, x[i], x[i + 4], f(0));
                if !OPEN {
                    x[i] = s.tame(w, x[i]);
                }
            }
        }
        _ => {
            for i in 0..4 {
                let four = [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3];
                let factors = [f(3 + i), f(7 + 2 * i), f(8 + 2 * i)];
                quad_inverse::<L, false>(s, w, x, four, factors);
            }
            for i in 0..4 {
                let four = [i, i + 4, i + 8, i + 12];
                quad_inverse::<L, OPEN>(s, w, x, four, [f(0), f(1), f(2)]);
            }
        }
    }
}
