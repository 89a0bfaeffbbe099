//! Dense row-major f64 matrices: the values of the clear executor and the weights of a model.

use crate::error::{Error, Result};
use crate::shape::Shape;

/// A dense row-major matrix of f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    shape: Shape,
    data: Vec<f64>,
}

impl Matrix {
    /// A matrix of zeros.
    #[must_use]
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { shape: Shape::new(rows, columns), data: vec![0.0; rows * columns] }
    }

    /// Takes row-major `data` of `rows * columns` elements.
    ///
    /// # Errors
    /// `ShapeMismatch` (as one row of `data.len()`) when the length differs.
    pub fn from_vec(rows: usize, columns: usize, data: Vec<f64>) -> Result<Self> {
        let shape = Shape::new(rows, columns);
        if rows.checked_mul(columns) != Some(data.len()) {
            let got = Shape::new(1, data.len());
            return Err(Error::ShapeMismatch { op: "matrix", expected: shape, got });
        }
        Ok(Self { shape, data })
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.columns
    }

    /// All elements, row-major.
    #[must_use]
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// All elements, row-major.
    pub fn data_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// The elements as a vector, row-major.
    #[must_use]
    pub fn into_data(self) -> Vec<f64> {
        self.data
    }

    /// Row `r`.
    ///
    /// # Panics
    /// When `r` is not below [`rows`](Self::rows).
    #[must_use]
    pub fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.shape.columns..(r + 1) * self.shape.columns]
    }

    /// Row `r`.
    ///
    /// # Panics
    /// When `r` is not below [`rows`](Self::rows).
    pub fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.data[r * self.shape.columns..(r + 1) * self.shape.columns]
    }

    /// Element in row `r`, column `c`.
    ///
    /// # Panics
    /// When either index is out of bounds.
    #[must_use]
    pub fn at(&self, r: usize, c: usize) -> f64 {
        self.row(r)[c]
    }

    /// Largest absolute value, 0 when empty.
    #[must_use]
    pub fn abs_max(&self) -> f64 {
        self.data.iter().fold(0.0, |m, x| m.max(x.abs()))
    }

    /// The first element that is NaN or infinite.
    #[must_use]
    pub fn first_not_finite(&self) -> Option<usize> {
        self.data.iter().position(|x| !x.is_finite())
    }

    /// `self · rhs`.
    ///
    /// # Errors
    /// `ShapeMismatch` unless `self.columns() == rhs.rows()`.
    pub fn multiply(&self, rhs: &Matrix) -> Result<Matrix> {
        if self.columns() != rhs.rows() {
            let expected = Shape::new(self.columns(), rhs.columns());
            return Err(Error::ShapeMismatch { op: "multiply", expected, got: rhs.shape });
        }
        let mut out = Matrix::zeros(self.rows(), rhs.columns());
        for r in 0..self.rows() {
            accumulate_row(self.row(r), rhs, out.row_mut(r));
        }
        Ok(out)
    }
}

/// `out += x · m`, four rows of `m` at a time so that `out` is loaded and stored a quarter as often.
/// Lengths: `x` has `m.rows()` entries, `out` has `m.columns()`.
fn accumulate_row(x: &[f64], m: &Matrix, out: &mut [f64]) {
    let quads = x.len() / 4 * 4;
    for k in (0..quads).step_by(4) {
        let (x0, x1, x2, x3) = (x[k], x[k + 1], x[k + 2], x[k + 3]);
        let rows = m.row(k).iter().zip(m.row(k + 1)).zip(m.row(k + 2)).zip(m.row(k + 3));
        for (o, (((m0, m1), m2), m3)) in out.iter_mut().zip(rows) {
            *o += x0 * m0 + x1 * m1 + x2 * m2 + x3 * m3;
        }
    }
    for (k, xk) in x.iter().enumerate().skip(quads) {
        for (o, w) in out.iter_mut().zip(m.row(k)) {
            *o += xk * w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_a_hand_computed_pair() {
        let a = Matrix::from_vec(2, 5, vec![1., 2., 3., 4., 5., 0., -1., 0., 1., 2.]).unwrap();
        let b = Matrix::from_vec(5, 2, vec![1., 0., 0., 1., 1., 1., 2., 0., 0., -1.]).unwrap();
        // Row 0: [1 + 3 + 8, 2 + 3 - 5]; row 1: [2, -1 - 2].
        assert_eq!(a.multiply(&b).unwrap().data(), &[12., 0., 2., -3.]);
        assert!(matches!(b.multiply(&b), Err(Error::ShapeMismatch { .. })));
    }
}
