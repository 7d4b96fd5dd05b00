//! A double as `Double.toString` of Java 8 to 18 prints it.
//!
//! Java 19 changed to the shortest digits; before, the digits come from Steele and White's loop with an estimated
//! exponent, which at times gives a digit too many or not the nearest (2.3599402380420346E17 is
//! `2.35994023804203456E17`), and integers below 2^63 are cut by a fixed table. Spark 3.3 runs on Java 8 to 17, so what
//! it wrote has those digits. The loop works in 32 bits, 64 bits or wide integers, and overflows, where Java's does.

use std::cmp::Ordering;

use super::wide::Wide;

/// Appends the text of `value`.
pub(super) fn print(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_infinite() {
        out.extend_from_slice(b"Infinity");
    } else if value == 0.0 {
        out.extend_from_slice(b"0.0");
    } else {
        Decimal::of(value.abs()).print(out);
    }
}

/// Digits, and where the point stands in them: 0.d₁d₂d₃… × 10^point.
#[derive(Debug, Default)]
struct Decimal {
    digits: Vec<u8>,
    point: i32,
}

impl Decimal {
    fn of(value: f64) -> Self {
        let bits = value.to_bits();
        let (mut exponent, mut fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
        let mut significant = 53;
        if exponent == 0 {
            // Subnormal: the leading bit goes where it stands in other numbers.
            let zeros = fraction.leading_zeros() as i32;
            let shift = zeros - 11;
            fraction <<= shift;
            exponent = 1 - shift;
            significant = 64 - zeros;
        } else {
            fraction |= 1 << 52;
        }
        Self::develop(exponent - 1023, fraction, significant)
    }

    /// The digits of `fraction` × 2^(`exponent` - 52), whose first `significant` bits count.
    fn develop(exponent: i32, fraction: u64, significant: i32) -> Self {
        let tail_zeros = fraction.trailing_zeros() as i32;
        let fraction_bits = 53 - tail_zeros;
        let tiny_bits = (fraction_bits - exponent - 1).max(0);
        if tiny_bits == 0 && exponent <= 62 {
            return Self::of_integer(exponent, fraction, significant);
        }
        let decimal_exponent = estimate(exponent, fraction);
        // The value is B/S × 10^decimal_exponent, and M is half the distance to its neighbours in the units of B.
        let b5 = (-decimal_exponent).max(0);
        let s5 = decimal_exponent.max(0);
        let mut b2 = b5 + tiny_bits + exponent;
        let mut s2 = s5 + tiny_bits;
        let mut m2 = b2 - significant;
        b2 -= fraction_bits - 1;
        let common = b2.min(s2);
        b2 -= common;
        s2 -= common;
        m2 -= common;
        if fraction_bits == 1 {
            // The neighbour below a power of two is only half as far.
            m2 -= 1;
        }
        if m2 < 0 {
            b2 -= m2;
            s2 -= m2;
            m2 = 0;
        }
        let fraction = fraction >> tail_zeros;
        let bits = (fraction_bits + b2 + bits_of_pow5(b5)).max(s2 + 1 + bits_of_pow5(s5 + 1));
        if bits < 64 {
            // Java works in machine words where these bounds say that B and 10 × S fit.
            let word = |fives: i32, twos: i32| 5_i64.pow(fives as u32) << twos;
            let (b, s, m) = ((fraction as i64 * word(b5, 0)) << b2, word(s5, s2), word(b5, m2));
            let wrap = if bits < 32 { |word: i64| i64::from(word as i32) } else { |word: i64| word };
            return Self::loop_in_words(decimal_exponent, b, s, m, wrap);
        }
        Self::loop_in_wide(decimal_exponent, Wide::pow(b5, b2).times(fraction), &Wide::pow(s5, s2), Wide::pow(b5, m2))
    }

    /// The loop in words, which may overflow: M does where it is past all that matters, and B + M in rare cases where it
    /// does matter, and the last digit isn't rounded up then.
    fn loop_in_words(mut decimal_exponent: i32, mut b: i64, s: i64, mut m: i64, wrap: fn(i64) -> i64) -> Self {
        let ten_s = s * 10;
        let mut digits = Vec::with_capacity(18);
        let (mut low, mut high, mut first) = (false, false, true);
        while first || !low && !high {
            let digit = (b / s) as u8;
            b = 10 * (b % s);
            m = wrap(m.wrapping_mul(10));
            (low, high) = if m > 0 { (b < m, wrap(b.wrapping_add(m)) > ten_s) } else { (true, true) };
            if first && digit == 0 && !high {
                // The estimate was one too high.
                decimal_exponent -= 1;
            } else {
                digits.push(digit);
            }
            if std::mem::take(&mut first) && !(-3..8).contains(&decimal_exponent) {
                // With an exponent the first digit is never the last.
                (low, high) = (false, false);
            }
        }
        Self { digits, point: decimal_exponent + 1 }.rounded(low, high, wrap((b << 1).wrapping_sub(ten_s)).cmp(&0))
    }

    /// The loop in integers of any width.
    fn loop_in_wide(mut decimal_exponent: i32, mut b: Wide, s: &Wide, mut m: Wide) -> Self {
        let ten_s = s.times(10);
        let mut digits = Vec::with_capacity(18);
        let (mut low, mut high, mut first) = (false, false, true);
        while first || !low && !high {
            let digit = b.divide(s);
            b = b.times(10);
            m = m.times(10);
            low = b.compare(&m) == Ordering::Less;
            // Not as in words: at the limit, too.
            high = b.plus(&m).compare(&ten_s) != Ordering::Less;
            if first && digit == 0 && !high {
                // The estimate was one too high.
                decimal_exponent -= 1;
            } else {
                digits.push(digit);
            }
            if std::mem::take(&mut first) && !(-3..8).contains(&decimal_exponent) {
                // With an exponent the first digit is never the last.
                (low, high) = (false, false);
            }
        }
        Self { digits, point: decimal_exponent + 1 }.rounded(low, high, b.times(2).compare(&ten_s))
    }

    /// Rounds the last digit by why the loop stopped, and by how the rest compares with a half.
    fn rounded(mut self, low: bool, high: bool, rest: Ordering) -> Self {
        let up = match rest {
            _ if !high => false,
            _ if !low => true,
            Ordering::Equal => self.digits.last().is_some_and(|digit| digit & 1 != 0),
            ordering => ordering == Ordering::Greater,
        };
        if up {
            self.round_up();
        }
        self
    }

    /// An integer below 2^63: all its digits, but those that its bits say nothing of.
    fn of_integer(exponent: i32, fraction: u64, significant: i32) -> Self {
        let mut integer = if exponent >= 52 { fraction << (exponent - 52) } else { fraction >> (52 - exponent) };
        let mut point = 0;
        if exponent > significant {
            let insignificant = digits_of_pow2(exponent - significant - 1);
            if insignificant > 0 {
                let power = 10_u64.pow(insignificant as u32);
                let rest = integer % power;
                integer /= power;
                point += insignificant;
                if rest >= power >> 1 {
                    integer += 1;
                }
            }
        }
        let mut digits = Vec::with_capacity(19);
        while integer > 0 {
            let digit = (integer % 10) as u8;
            integer /= 10;
            point += 1;
            if digit > 0 || !digits.is_empty() {
                digits.push(digit);
            }
        }
        digits.reverse();
        Self { digits, point }
    }

    fn round_up(&mut self) {
        for digit in self.digits.iter_mut().rev() {
            if *digit < 9 {
                *digit += 1;
                return;
            }
            *digit = 0;
        }
        // All were nines.
        if let Some(first) = self.digits.first_mut() {
            *first = 1;
            self.point += 1;
        }
    }

    fn print(&self, out: &mut Vec<u8>) {
        let (digits, point) = (&self.digits, self.point);
        let push = |out: &mut Vec<u8>, digits: &[u8]| out.extend(digits.iter().map(|digit| b'0' + digit));
        let push_fraction = |out: &mut Vec<u8>, digits: &[u8]| {
            out.push(b'.');
            push(out, if digits.is_empty() { &[0] } else { digits });
        };
        if point > 0 && point < 8 {
            let (whole, fraction) = digits.split_at(digits.len().min(point as usize));
            push(out, whole);
            out.extend(std::iter::repeat_n(b'0', point as usize - whole.len()));
            push_fraction(out, fraction);
        } else if point <= 0 && point > -3 {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', -point as usize));
            push(out, digits);
        } else {
            let (first, fraction) = digits.split_at(1.min(digits.len()));
            push(out, first);
            push_fraction(out, fraction);
            out.push(b'E');
            out.extend_from_slice((point - 1).to_string().as_bytes());
        }
    }
}

/// About the decimal exponent of a value, at most one too high. The constants are Java's own.
#[expect(clippy::approx_constant, reason = "Java's digits, which are not those of the constant")]
fn estimate(exponent: i32, fraction: u64) -> i32 {
    let mantissa = f64::from_bits((1023 << 52) | (fraction & ((1 << 52) - 1)));
    ((mantissa - 1.5) * 0.289529654 + 0.176091259 + f64::from(exponent) * 0.301029995663981).floor() as i32
}

/// How many bits 5^n has, as Java reckons: exact for small n, else a bound.
fn bits_of_pow5(n: i32) -> i32 {
    match n {
        0 => 0,
        1..27 => 5_u64.pow(n as u32).ilog2() as i32 + 1,
        n => n * 3,
    }
}

/// How many decimal digits the last `n` bits of an integer are worth.
fn digits_of_pow2(n: i32) -> i32 {
    if n > 1 { 2_u64.pow(n as u32).ilog10() as i32 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: f64) -> String {
        let mut out = Vec::new();
        print(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Pairs from Java 17's `Double.toString`, those among them that Java 19 prints shorter.
    #[test]
    fn digits_are_java_s() {
        for line in include_str!("../../../testdata/java17_doubles.txt").lines() {
            let (bits, expected) = line.split_once(' ').unwrap();
            let value = f64::from_bits(u64::from_str_radix(bits, 16).unwrap());
            assert_eq!(text(value), expected, "{bits}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = f64::from_bits(state);
            if value.is_finite() {
                assert_eq!(text(value).parse::<f64>().unwrap(), value, "{value:e}");
            }
        }
        assert_eq!(
            [f64::NAN, f64::NEG_INFINITY, -0.0, 1e10, 0.001].map(text),
            ["NaN", "-Infinity", "-0.0", "1.0E10", "0.001"]
        );
    }
}
