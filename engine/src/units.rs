//! Durations and sizes as people write them: `5m`, `1GiB`.

use std::time::Duration;

/// Parses a duration: a number and one of `ms`, `s`, `m`, `h`, `d`; several may follow each other (`1h30m`). Exact to
/// the millisecond.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let scale = |unit: &str| match unit {
        "ms" => Some(1.0),
        "s" => Some(1e3),
        "m" => Some(60e3),
        "h" => Some(3600e3),
        "d" => Some(86400e3),
        _ => None,
    };
    let wrong = || format!("`{text}` is not a duration: write a number with ms, s, m, h or d, e.g. `5m` or `1h30m`");
    let (mut rest, mut millis) = (text.trim(), 0.0_f64);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        millis += number * scale(&after[..unit_len]).ok_or_else(wrong)?;
        rest = &after[unit_len..];
    }
    let millis = millis.round();
    if millis <= u64::MAX as f64 { Ok(Duration::from_millis(millis as u64)) } else { Err(wrong()) }
}

/// Parses a size in bytes: a number and one of `B`, `KB`, `MB`, `GB`, `TB` (thousands) or `KiB`, `MiB`, `GiB`, `TiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write a number with B, KiB, MiB, GiB or TiB, e.g. `64MiB`");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number * scale as f64;
    if bytes.is_finite() && (0.0..=u64::MAX as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text[..end].parse().ok().map(|number| (number, &text[end..]))
}

/// Prints a duration in its largest exact units: `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if millis >= size {
            text.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    text
}

/// Prints a size in the largest unit that leaves it whole: `64MiB`.
pub fn format_size(bytes: u64) -> String {
    [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size))
        .map_or_else(|| format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

/// Serde for durations with units: `#[serde(with = "units::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `1h30m`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*duration))
    }

    /// Reads `1h30m`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Serde for durations that may be left out: `#[serde(with = "units::optional_duration", default)]`.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// Writes `1h30m`, or nothing.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(super::format_duration).serialize(serializer)
    }

    /// Reads `1h30m`, or nothing.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_duration(&text).map_err(D::Error::custom)).transpose()
    }
}

/// Serde for sizes with units: `#[serde(with = "units::size")]`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `64MiB`.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_size(*bytes))
    }

    /// Reads `64MiB`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        super::parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "5", "5 minutes", "m", "-1s", "1e9d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("100KB"), Ok(100_000));
        assert_eq!(parse_size("0.5MiB"), Ok(1 << 19));
        for wrong in ["", "GiB", "1Gib", "1..2KiB", "-1B"] {
            assert!(parse_size(wrong).is_err(), "{wrong} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0_u64..10_000_000_000, bytes in 0_u64..1 << 50) {
            prop_assert_eq!(parse_duration(&format_duration(Duration::from_millis(millis))), Ok(Duration::from_millis(millis)));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
