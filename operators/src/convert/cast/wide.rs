//! Unsigned integers of up to 2,300 bits, for the digits of a double.

use std::cmp::Ordering;

/// An unsigned integer: its 32-bit limbs, the lowest first, the highest not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wide(Vec<u32>);

impl Wide {
    /// 5^`fives` × 2^`twos`.
    pub(super) fn pow(fives: i32, twos: i32) -> Self {
        let (mut fives, twos) = (fives.max(0), twos.max(0));
        let mut wide = Self(vec![1]);
        while fives > 0 {
            let step = fives.min(13);
            wide = wide.times(5_u64.pow(step as u32));
            fives -= step;
        }
        wide.shifted(twos as usize)
    }

    fn shifted(mut self, bits: usize) -> Self {
        self = self.times(1 << (bits % 32));
        if bits >= 32 {
            self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
        }
        self
    }

    /// The product with `factor`.
    pub(super) fn times(&self, factor: u64) -> Self {
        let mut limbs = Vec::with_capacity(self.0.len() + 2);
        let mut carry = 0_u128;
        for &limb in &self.0 {
            carry += u128::from(limb) * u128::from(factor);
            limbs.push(carry as u32);
            carry >>= 32;
        }
        while carry > 0 {
            limbs.push(carry as u32);
            carry >>= 32;
        }
        Self(limbs).trimmed()
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut limbs = Vec::with_capacity(self.0.len().max(other.0.len()) + 1);
        let mut carry = 0_u64;
        for at in 0..self.0.len().max(other.0.len()) {
            let limb = |wide: &Self| u64::from(wide.0.get(at).copied().unwrap_or(0));
            carry += limb(self) + limb(other);
            limbs.push(carry as u32);
            carry >>= 32;
        }
        limbs.push(carry as u32);
        Self(limbs).trimmed()
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Takes `divisor` away as often as it goes, below ten times, and gives how often.
    pub(super) fn divide(&mut self, divisor: &Self) -> u8 {
        let mut quotient = 0;
        while self.compare(divisor) != Ordering::Less {
            self.subtract(divisor);
            quotient += 1;
        }
        quotient
    }

    /// Takes away `other`, which is not larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0_i64;
        for (at, limb) in self.0.iter_mut().enumerate() {
            let difference = i64::from(*limb) - i64::from(other.0.get(at).copied().unwrap_or(0)) + borrow;
            *limb = difference as u32;
            borrow = difference >> 32;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(value: u128) -> Wide {
        Wide((0..4).map(|limb| (value >> (32 * limb)) as u32).collect()).trimmed()
    }

    #[test]
    fn it_reckons_as_integers_do() {
        assert_eq!(Wide::pow(13, 40), wide(5_u128.pow(13) << 40));
        assert_eq!(Wide::pow(30, 0), wide(5_u128.pow(30)));
        assert_eq!(wide(u128::from(u64::MAX)).plus(&wide(1)), wide(1 << 64));
        let mut value = wide(7 << 70);
        assert_eq!(value.divide(&wide((1 << 70) + 1)), 6);
        assert_eq!(value, wide((7 << 70) - 6 * ((1 << 70) + 1)));
        assert_eq!(wide(1 << 64).compare(&wide(u128::from(u64::MAX))), Ordering::Greater);
        assert_eq!(wide(0).times(10), wide(0));
    }
}
