//! What DynamoDB makes of a value when it stores it: numbers have one text, sets one order.
//!
//! Without this, `1.0` and `1` would be two numbers on one machine and one number on AWS. Numeric sort keys get a text
//! whose order is the order of the numbers.

use serde_dynamo::AttributeValue;

/// Significant digits of a number.
const MAX_DIGITS: usize = 38;

/// A value as it is stored, or why it can't be.
pub fn normalise(value: &mut AttributeValue) -> Result<(), String> {
    match value {
        AttributeValue::N(number) => *number = canonical(number)?,
        AttributeValue::Ns(set) => {
            for number in set.iter_mut() {
                *number = canonical(number)?;
            }
            sort_set(set)?;
        }
        AttributeValue::Ss(set) => sort_set(set)?,
        AttributeValue::Bs(set) => sort_set(set)?,
        AttributeValue::L(list) => list.iter_mut().try_for_each(normalise)?,
        AttributeValue::M(map) => map.values_mut().try_for_each(normalise)?,
        AttributeValue::S(_) | AttributeValue::B(_) | AttributeValue::Bool(_) | AttributeValue::Null(_) => {}
    }
    Ok(())
}

fn sort_set<T: Ord>(set: &mut [T]) -> Result<(), String> {
    if set.is_empty() {
        return Err("a set is empty".to_owned());
    }
    set.sort_unstable();
    if set.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("a set holds a value twice".to_owned());
    }
    Ok(())
}

/// The one text of a number: plain digits, without needless zeros.
pub fn canonical(number: &str) -> Result<String, String> {
    let plain = number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    if plain && (1..=MAX_DIGITS).contains(&number.len()) {
        return Ok(number.to_owned());
    }
    let decimal = Decimal::parse(number)?;
    let point = decimal.exponent;
    let digits = &decimal.digits;
    let sign = if decimal.negative { "-" } else { "" };
    Ok(match usize::try_from(point) {
        _ if digits.is_empty() => "0".to_owned(),
        Ok(before) if before >= digits.len() => format!("{sign}{digits}{}", "0".repeat(before - digits.len())),
        Ok(before) if before > 0 => format!("{sign}{}.{}", &digits[..before], &digits[before..]),
        _ => format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
    })
}

/// A text for a number that sorts, by its bytes, as the number does.
pub fn order_text(number: &str) -> Result<String, String> {
    let Decimal { negative, digits, exponent } = Decimal::parse(number)?;
    let exponent = exponent + 200;
    Ok(match (digits.is_empty(), negative) {
        (true, _) => "1".to_owned(),
        (false, false) => format!("2{exponent:03}{digits}"),
        // Of two negative numbers the one that is further from zero comes first: complements, and an end that is past
        // every digit.
        (false, true) => {
            let complement: String = digits.bytes().map(|digit| char::from(b'0' + (b'9' - digit))).collect();
            format!("0{:03}{complement}~", 999 - exponent)
        }
    })
}

/// `0.digits × 10^exponent`; zero has no digits.
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i32,
}

impl Decimal {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a number");
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
            None => (text, 0),
        };
        let negative = mantissa.starts_with('-');
        let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let leading = all.len() - all.trim_start_matches('0').len();
        let digits = all[leading..].trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Ok(Self { negative: false, digits, exponent: 0 });
        }
        let shift = i32::try_from(whole.len()).and_then(|whole| i32::try_from(leading).map(|leading| whole - leading));
        let exponent = shift.ok().and_then(|shift| exponent.checked_add(shift)).ok_or_else(wrong)?;
        if digits.len() > MAX_DIGITS {
            return Err(format!("`{text}` has {} significant digits, and the limit is {MAX_DIGITS}", digits.len()));
        }
        if !(-129..=126).contains(&exponent) {
            return Err(format!("`{text}` is too large or too small: numbers lie between 1E-130 and 9.9E+125"));
        }
        Ok(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_one_text() {
        for (text, stored) in [
            ("0", "0"),
            ("-0.00", "0"),
            ("007", "7"),
            ("1.50", "1.5"),
            ("+1.5e3", "1500"),
            ("1e-3", "0.001"),
            ("-12.30", "-12.3"),
            ("120", "120"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ] {
            assert_eq!(canonical(text), Ok(stored.to_owned()), "{text}");
        }
        for wrong in ["", "-", ".", "1e", "1e400", "x", "0x1", "1 ", "1.2.3", "123456789012345678901234567890123456789"]
        {
            assert!(canonical(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn sets_have_one_order_and_no_twins() {
        let mut set = AttributeValue::Ns(vec!["10".into(), "2.0".into()]);
        normalise(&mut set).unwrap();
        assert_eq!(set, AttributeValue::Ns(vec!["10".into(), "2".into()]));
        assert!(normalise(&mut AttributeValue::Ns(vec!["1".into(), "1.0".into()])).is_err());
        assert!(normalise(&mut AttributeValue::Ss(vec![])).is_err());
    }

    proptest! {
        #[test]
        fn order_texts_sort_as_their_numbers(
            a in -1_000_000_i64..1_000_000,
            b in -1_000_000_i64..1_000_000,
            scale in 0_u32..4,
        ) {
            let text = |n: i64| format!("{n}e-{scale}");
            prop_assert_eq!(order_text(&text(a)).unwrap().cmp(&order_text(&text(b)).unwrap()), a.cmp(&b));
            prop_assert_eq!(canonical(&canonical(&text(a)).unwrap()), canonical(&text(a)));
        }

        #[test]
        fn order_texts_sort_across_magnitudes(a in -1e30_f64..1e30, b in -1e-5_f64..1e-5) {
            for (x, y) in [(a, b), (a, -a), (b, -b), (a, a / 3.0)] {
                let ordered = order_text(&format!("{x:.20e}")).unwrap().cmp(&order_text(&format!("{y:.20e}")).unwrap());
                prop_assert_eq!(Some(ordered), x.partial_cmp(&y));
            }
        }
    }
}
