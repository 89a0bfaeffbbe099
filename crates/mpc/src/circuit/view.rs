//! Strided views: slices, transposes and broadcasts of a tensor, materialised.

use crate::error::{Error, Result};

/// Which elements of a tensor make up another one: element `(i_0, .., i_r)` is at `offset + sum_j i_j strides[j]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl View {
    /// The whole of a row-major tensor.
    #[must_use]
    pub fn of(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self { offset: 0, shape: shape.to_vec(), strides }
    }

    /// Elements `from .. to` along `axis`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis does not exist or is shorter.
    pub fn slice(mut self, axis: usize, from: usize, to: usize) -> Result<Self> {
        match self.shape.get_mut(axis) {
            Some(len) if from <= to && to <= *len => *len = to - from,
            _ => return Err(self.error(format!("{from}..{to} along axis {axis}"))),
        }
        self.offset += from * self.strides[axis];
        Ok(self)
    }

    /// Axes in another order.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `order` names every axis once.
    pub fn permute(self, order: &[usize]) -> Result<Self> {
        let mut seen = order.to_vec();
        seen.sort_unstable();
        if seen != (0..self.shape.len()).collect::<Vec<_>>() {
            return Err(self.error(format!("a permutation, got {order:?}")));
        }
        Ok(Self {
            offset: self.offset,
            shape: order.iter().map(|&a| self.shape[a]).collect(),
            strides: order.iter().map(|&a| self.strides[a]).collect(),
        })
    }

    /// Splits an axis of length `a b` into two of lengths `a` and `b`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis does not exist or is not a multiple of `b`.
    pub fn split(mut self, axis: usize, b: usize) -> Result<Self> {
        match self.shape.get(axis) {
            Some(len) if b > 0 && len % b == 0 => {}
            _ => return Err(self.error(format!("axis {axis} in groups of {b}"))),
        }
        self.shape[axis] /= b;
        let stride = self.strides[axis];
        self.strides[axis] = stride * b;
        self.shape.insert(axis + 1, b);
        self.strides.insert(axis + 1, stride);
        Ok(self)
    }

    /// Repeats an axis of length 1.
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis does not exist or has another length.
    pub fn broadcast(mut self, axis: usize, len: usize) -> Result<Self> {
        if self.shape.get(axis) != Some(&1) {
            return Err(self.error(format!("axis {axis} of length 1")));
        }
        self.shape[axis] = len;
        self.strides[axis] = 0;
        Ok(self)
    }

    fn error(&self, expected: String) -> Error {
        Error::Shape { op: "view", expected, got: format!("{:?}", self.shape) }
    }

    /// The elements of `data` that this view names.
    pub(crate) fn gather(&self, data: &[u64]) -> Vec<u64> {
        let mut out = Vec::with_capacity(self.shape.iter().product());
        self.walk(0, self.offset, data, &mut out);
        out
    }

    fn walk(&self, axis: usize, at: usize, data: &[u64], out: &mut Vec<u64>) {
        let (Some(&len), Some(&stride)) = (self.shape.get(axis), self.strides.get(axis)) else {
            out.push(data[at]);
            return;
        };
        if axis + 1 == self.shape.len() {
            match stride {
                1 => out.extend_from_slice(&data[at..at + len]),
                _ => out.extend((0..len).map(|i| data[at + i * stride])),
            }
        } else {
            (0..len).for_each(|i| self.walk(axis + 1, at + i * stride, data, out));
        }
    }

    /// Whether every element exists in a tensor of `len` elements.
    pub(crate) fn fits(&self, len: usize) -> bool {
        let reach = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |reach, (n, s)| (*n > 0).then(|| reach + (n - 1) * s));
        reach.is_none_or(|reach| reach < len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_split_transposed_and_broadcast() {
        let data: Vec<u64> = (0..24).collect(); // [2, 12]
        let view = View::of(&[2, 12]).slice(1, 4, 10).unwrap().split(1, 3).unwrap();
        let view = view.permute(&[1, 0, 2]).unwrap();
        assert_eq!(view.shape, [2, 2, 3]);
        assert_eq!(view.gather(&data), [4, 5, 6, 16, 17, 18, 7, 8, 9, 19, 20, 21]);
        let row = View::of(&[2, 1]).broadcast(1, 3).unwrap();
        assert_eq!(row.gather(&[8, 9]), [8, 8, 8, 9, 9, 9]);
        assert!(!row.fits(1) && row.fits(2));
        assert!(View::of(&[2, 3]).slice(1, 2, 4).is_err());
    }
}
