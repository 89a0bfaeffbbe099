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

/// Rows of vectors on which layers work.
trait Rows<L: Lanes> {
    /// Vectors of a row.
    const LANES: usize;
    fn load(&self, row: usize, lane: usize) -> L::Words;
    fn store(&mut self, row: usize, lane: usize, words: L::Words);
}

/// A run of the second pass: rows of one vector.
struct Run<'a, L: Lanes>(&'a mut [L::Words]);

impl<L: Lanes> Rows<L> for Run<'_, L> {
    const LANES: usize = 1;

    #[inline(always)]
    fn load(&self, row: usize, _: usize) -> L::Words {
        self.0[row]
    }

    #[inline(always)]
    fn store(&mut self, row: usize, _: usize, words: L::Words) {
        self.0[row] = words;
    }
}

/// A column block of the first pass, from and to its place in the data or the scratch.
struct Columns<'a, L: Lanes, const FROM_DATA: bool, const TO_DATA: bool> {
    data: &'a mut [L::Words],
    scratch: &'a mut [L::Words],
    /// First vector of the block in a run.
    column: usize,
}

impl<L: Butterflies, const FROM_DATA: bool, const TO_DATA: bool> Rows<L>
    for Columns<'_, L, FROM_DATA, TO_DATA>
{
    const LANES: usize = LINE >> L::LOG_WIDTH;

    #[inline(always)]
    fn load(&self, row: usize, lane: usize) -> L::Words {
        if FROM_DATA {
            self.data[row * (RUN >> L::LOG_WIDTH) + self.column + lane]
        } else {
            self.scratch[row * (LINE >> L::LOG_WIDTH) + lane]
        }
    }

    #[inline(always)]
    fn store(&mut self, row: usize, lane: usize, words: L::Words) {
        if TO_DATA {
            self.data[row * (RUN >> L::LOG_WIDTH) + self.column + lane] = words;
        } else {
            self.scratch[row * (LINE >> L::LOG_WIDTH) + lane] = words;
        }
    }
}

/// `$body` with the constants `$layers` and `$norm` of a step, within the limits of an instruction set.
macro_rules! with_step {
    ($step:expr, $largest:expr, |$layers:ident, $norm:ident| $body:expr) => {{
        macro_rules! arm {
            ($l:literal, $n:literal) => {{
                const $layers: usize = $l;
                const $norm: bool = $n;
                $body
            }};
        }
        match ($step.layers, $step.norm) {
            (1, false) => arm!(1, false),
            (1, true) => arm!(1, true),
            (2, false) => arm!(2, false),
            (2, true) => arm!(2, true),
            (3, _) if $largest >= 3 => arm!(3, false),
            (4, _) if $largest >= 4 => arm!(4, false),
            _ => {}
        }
    }};
}

/// Words of the twiddle factors of one block of a step.
const fn block_twiddles<L: Butterflies>(layers: usize) -> usize {
    ((1 << layers) - 1) * L::TWIDDLE
}

impl Step {
    /// Words of its twiddle factors.
    fn twiddles<L: Butterflies>(&self) -> usize {
        block_twiddles::<L>(self.layers) << self.first
    }
}

impl<'a, L: Butterflies> Layers<'a, L> {
    #[inline(always)]
    pub(super) fn new(s: L, c: &Constants, order: &'a Order, table: &'a Table) -> Self {
        Self { s, w: s.prime(c), order, table }
    }

    #[inline(always)]
    pub(super) fn forward(&self, words: &mut [u64]) {
        let s = self.s;
        let Order { columns, runs, norm } = self.order;
        let rows = words.len() / RUN;
        let mut scratch = Scratch([0; SCRATCH]);
        let width = 1 << L::LOG_WIDTH;
        for column in (0..RUN / width).step_by(LINE / width) {
            let mut twiddles = &self.table.columns[..];
            for (i, step) in columns.iter().enumerate() {
                let (own, rest) = twiddles.split_at(step.twiddles::<L>());
                twiddles = rest;
                let (data, scratch) = (s.split_mut(words), s.split_mut(&mut scratch.0));
                with_step!(step, L::STEP, |LAYERS, NORM| {
                    if i == 0 {
                        let io = Columns::<L, true, false> { data, scratch, column };
                        self.step_forward::<LAYERS, NORM, true, _>(io, rows, own);
                    } else if i + 1 == columns.len() {
                        let io = Columns::<L, false, true> { data, scratch, column };
                        self.step_forward::<LAYERS, NORM, false, _>(io, rows, own);
                    } else {
                        let io = Columns::<L, false, false> { data, scratch, column };
                        self.step_forward::<LAYERS, NORM, false, _>(io, rows, own);
                    }
                });
            }
        }
        let tables = self.table.runs.chunks_exact(self.table.runs.len() / rows);
        for (run, mut twiddles) in words.chunks_exact_mut(RUN).zip(tables) {
            let run = s.split_mut(run);
            for step in runs {
                let (own, rest) = twiddles.split_at(step.twiddles::<L>());
                twiddles = rest;
                with_step!(step, L::STEP, |LAYERS, NORM| {
                    self.step_forward::<LAYERS, NORM, false, _>(Run::<L>(run), RUN / width, own);
                });
            }
            if *norm {
                self.squares_forward::<true>(run, twiddles);
            } else {
                self.squares_forward::<false>(run, twiddles);
            }
        }
    }

    /// One step on all rows; with `FRESH` these are residues.
    #[inline(always)]
    fn step_forward<const LAYERS: usize, const NORM: bool, const FRESH: bool, R: Rows<L>>(
        &self,
        mut io: R,
        rows: usize,
        twiddles: &[u64],
    ) {
        let s = self.s;
        let blocks = twiddles.chunks_exact(block_twiddles::<L>(LAYERS));
        let (size, gap) = (rows / blocks.len(), (rows / blocks.len()) >> LAYERS);
        for (block, twiddles) in blocks.enumerate() {
            for row in block * size..block * size + gap {
                for lane in 0..R::LANES {
                    let mut x = [s.get(io.load(row, lane)); REGISTERS];
                    for k in 0..1 << LAYERS {
                        let words = io.load(row + k * gap, lane);
                        x[k] = if FRESH { s.widen(words) } else { s.get(words) };
                    }
                    let twiddle = |i| s.broadcast(&twiddles[i * L::TWIDDLE..]);
                    radix_forward::<L, LAYERS, NORM>(s, &self.w, &mut x, twiddle);
                    for k in 0..1 << LAYERS {
                        io.store(row + k * gap, lane, s.put(x[k]));
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
                    (x[2 * k], x[2 * k + 1]) = s.butterfly::<false>(w, x[2 * k], x[2 * k + 1], f);
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
        let tables = self.table.runs.chunks_exact(self.table.runs.len() / rows);
        for (i, (run, mut twiddles)) in words.chunks_exact_mut(RUN).zip(tables).enumerate() {
            if let Some(from) = from {
                run.copy_from_slice(&from[i * RUN..(i + 1) * RUN]);
            }
            let run = s.split_mut(run);
            let before: usize = runs.iter().map(Step::twiddles::<L>).sum();
            self.squares_inverse(run, &twiddles[before..]);
            twiddles = &twiddles[..before];
            for step in runs.iter().rev() {
                let (rest, own) = twiddles.split_at(twiddles.len() - step.twiddles::<L>());
                twiddles = rest;
                with_step!(Step { norm: false, ..*step }, L::STEP, |LAYERS, _NORM| {
                    self.step_inverse::<LAYERS, _>(Run::<L>(run), RUN / width, own);
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
                with_step!(Step { norm: false, ..*step }, L::STEP, |LAYERS, _NORM| {
                    if i == 0 {
                        let io = Columns::<L, false, true> { data, scratch, column };
                        self.step_outermost::<LAYERS, _>(io, rows, own, &last);
                    } else if i + 1 == columns.len() {
                        let io = Columns::<L, true, false> { data, scratch, column };
                        self.step_inverse::<LAYERS, _>(io, rows, own);
                    } else {
                        let io = Columns::<L, false, false> { data, scratch, column };
                        self.step_inverse::<LAYERS, _>(io, rows, own);
                    }
                });
            }
        }
    }

    #[inline(always)]
    fn step_inverse<const LAYERS: usize, R: Rows<L>>(
        &self,
        mut io: R,
        rows: usize,
        twiddles: &[u64],
    ) {
        let s = self.s;
        let blocks = twiddles.chunks_exact(block_twiddles::<L>(LAYERS));
        let (size, gap) = (rows / blocks.len(), (rows / blocks.len()) >> LAYERS);
        for (block, twiddles) in blocks.enumerate() {
            for row in block * size..block * size + gap {
                for lane in 0..R::LANES {
                    let mut x = [s.get(io.load(row, lane)); REGISTERS];
                    for k in 0..1 << LAYERS {
                        x[k] = s.get(io.load(row + k * gap, lane));
                    }
                    let twiddle = |i| s.broadcast(&twiddles[i * L::TWIDDLE..]);
                    radix_inverse::<L, LAYERS, false>(s, &self.w, &mut x, twiddle);
                    for k in 0..1 << LAYERS {
                        io.store(row + k * gap, lane, s.put(x[k]));
                    }
                }
            }
        }
    }

    /// The step with the outermost layer, which is followed by the factor and the constant.
    #[inline(always)]
    fn step_outermost<const LAYERS: usize, R: Rows<L>>(
        &self,
        mut io: R,
        rows: usize,
        twiddles: &[u64],
        last: &Last,
    ) {
        let (s, w) = (self.s, &self.w);
        let (gap, half) = (rows >> LAYERS, 1 << (LAYERS - 1));
        let (p, constant) = (s.modulus(w), s.splat(last.constant));
        for row in 0..gap {
            for lane in 0..R::LANES {
                let mut x = [s.get(io.load(row, lane)); REGISTERS];
                for k in 0..1 << LAYERS {
                    x[k] = s.get(io.load(row + k * gap, lane));
                }
                let twiddle = |i| {
                    let words = if i == 0 { &last.outermost } else { &twiddles[i * L::TWIDDLE..] };
                    s.broadcast(words)
                };
                radix_inverse::<L, LAYERS, true>(s, w, &mut x, twiddle);
                for k in 0..half {
                    x[k] = s.lazy_times(w, x[k], s.broadcast(&last.scale));
                }
                for k in 0..1 << LAYERS {
                    let sum = s.add(s.narrow(w, x[k]), constant);
                    io.store(row + k * gap, lane, s.store(s.fold(sum, p)));
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
