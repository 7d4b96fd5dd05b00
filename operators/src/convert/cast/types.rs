//! The types that Spark infers for JSON, and how two of them become one.
//!
//! Merging neither depends on the order nor on the grouping of what is merged, so the types of a manifest are the same
//! however its files are cut. (Spark's own are not where keys differ only in their case; see `docs/convert.md`.)

use std::cmp::Ordering;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

/// More digits than this make a double.
const MAX_DIGITS: u8 = 38;

/// The digits of a decimal that holds every long.
const LONG_DIGITS: u8 = 20;

/// The name of the column that holds a record that Spark couldn't read.
pub const CORRUPT_RECORD: &str = "_corrupt_record";

/// What values of one place have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Type {
    /// Nothing but nulls and empty strings.
    #[default]
    Null,
    Boolean,
    Long,
    /// Integers of up to so many digits.
    Decimal(u8),
    Double,
    Text,
    Array(Box<Type>),
    Struct(Fields),
}

/// The fields of a struct.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(String, Type)>", into = "Vec<(String, Type)>")]
pub(crate) struct Fields {
    fields: Vec<(String, Type)>,
    by_name: HashMap<String, u32, RandomState>,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Fields {}

impl From<Vec<(String, Type)>> for Fields {
    fn from(fields: Vec<(String, Type)>) -> Self {
        let by_name = fields.iter().enumerate().map(|(index, (name, _))| (name.clone(), index as u32)).collect();
        Self { fields, by_name }
    }
}

impl From<Fields> for Vec<(String, Type)> {
    fn from(fields: Fields) -> Self {
        fields.fields
    }
}

impl Fields {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, Type)> {
        self.fields.iter()
    }

    pub(super) fn field(&self, index: usize) -> &Type {
        &self.fields[index].1
    }

    /// The field of that name. `hint` is where it is expected, and becomes where the next one is.
    #[inline]
    pub(super) fn find(&self, name: &[u8], hint: &mut usize) -> Option<usize> {
        let index = match self.fields.get(*hint) {
            Some((expected, _)) if expected.as_bytes() == name => *hint,
            _ => *self.by_name.get(std::str::from_utf8(name).ok()?)? as usize,
        };
        *hint = index + 1;
        Some(index)
    }

    /// Merges `kind` into the field of that name.
    pub(super) fn merge(&mut self, name: &str, kind: Type) {
        match self.by_name.get(name) {
            Some(&index) => {
                let field = &mut self.fields[index as usize].1;
                *field = std::mem::take(field).merge(kind);
            }
            None => {
                self.by_name.insert(name.to_owned(), self.fields.len() as u32);
                self.fields.push((name.to_owned(), kind));
            }
        }
    }

    /// Fields in all, nested ones included.
    fn count(&self) -> usize {
        self.fields.iter().map(|(_, kind)| 1 + kind.count()).sum()
    }

    /// As a schema has them: sorted, without fields that hold nothing; none if nothing is left.
    fn canonical(self) -> Option<Self> {
        let named = self.fields.into_iter().filter(|(name, _)| !name.is_empty());
        let mut fields: Vec<_> = named.filter_map(|(name, kind)| Some((name, kind.canonical()?))).collect();
        fields.sort_by(|(a, _), (b, _)| java_order(a, b));
        (!fields.is_empty()).then(|| fields.into())
    }
}

impl Type {
    /// The type that holds the values of both.
    pub(super) fn merge(self, other: Self) -> Self {
        use Type::*;
        match (self, other) {
            (Null, kind) | (kind, Null) => kind,
            (Boolean, Boolean) => Boolean,
            (Long, Long) => Long,
            (Double, Long | Decimal(_) | Double) | (Long | Decimal(_), Double) => Double,
            (Long, Decimal(digits)) | (Decimal(digits), Long) => Decimal(digits.max(LONG_DIGITS)),
            (Decimal(a), Decimal(b)) => Decimal(a.max(b)),
            (Array(a), Array(b)) => Array(Box::new(a.merge(*b))),
            (Struct(mut a), Struct(b)) => {
                for (name, kind) in b.fields {
                    a.merge(&name, kind);
                }
                Struct(a)
            }
            _ => Text,
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Array(element) => element.count(),
            Self::Struct(fields) => fields.count(),
            _ => 0,
        }
    }

    fn canonical(self) -> Option<Self> {
        match self {
            Self::Null => Some(Self::Text),
            Self::Array(element) => Some(Self::Array(Box::new(element.canonical()?))),
            Self::Struct(fields) => fields.canonical().map(Self::Struct),
            kind => Some(kind),
        }
    }

    /// The type of an integer of so many digits that is no long.
    pub(super) fn of_digits(digits: usize) -> Self {
        match u8::try_from(digits) {
            Ok(digits) if digits <= MAX_DIGITS => Self::Decimal(digits),
            _ => Self::Double,
        }
    }

    /// Whether it has an integer of `digits` digits, which is a long or not.
    pub(super) fn holds_integer(&self, digits: usize, is_long: bool) -> bool {
        match self {
            Self::Double | Self::Text => true,
            Self::Long => is_long,
            Self::Decimal(most) if is_long => *most >= LONG_DIGITS,
            Self::Decimal(most) => digits <= usize::from(*most),
            _ => false,
        }
    }
}

/// What the records of a range, a file or a manifest have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inferred {
    /// The top-level fields, in no order.
    pub(super) fields: Fields,
    /// Whether some record is no object.
    pub(super) corrupt: bool,
}

impl Inferred {
    /// What both have in common.
    pub(crate) fn merge(&mut self, other: Self) {
        self.corrupt |= other.corrupt;
        for (name, kind) in other.fields.fields {
            self.fields.merge(&name, kind);
        }
    }

    /// Merges `other`, unless that would make more than `most` fields; tells whether it did.
    pub(crate) fn merge_within(&mut self, other: Self, most: usize) -> bool {
        let all = self.count() + other.count();
        if all > most {
            let mut merged = self.clone();
            merged.merge(other);
            let within = merged.count() <= most;
            if within {
                *self = merged;
            }
            return within;
        }
        self.merge(other);
        true
    }

    /// Takes in the type of one record. Arrays at the root stand for their elements.
    pub(super) fn add(&mut self, mut kind: Type) {
        while let Type::Array(element) = kind {
            kind = *element;
        }
        match kind {
            Type::Struct(fields) => self.merge(Self { fields, corrupt: false }),
            Type::Null => {}
            _ => self.corrupt = true,
        }
    }

    /// Fields in all, nested ones included.
    pub(crate) fn count(&self) -> usize {
        self.fields.count()
    }

    /// The schema that Spark reads the records with.
    pub(crate) fn into_schema(mut self) -> SparkSchema {
        // Whatever a key of that name holds, the column is Spark's own.
        if self.corrupt || self.fields.by_name.contains_key(CORRUPT_RECORD) {
            self.fields.merge(CORRUPT_RECORD, Type::Text);
        }
        SparkSchema(self.fields.canonical().unwrap_or_default())
    }
}

/// The top-level fields that Spark reads records with, in Spark's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparkSchema(pub(super) Fields);

impl SparkSchema {
    /// Their names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

/// The order of Java's strings: by UTF-16 units.
fn java_order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Type> {
        let leaf = prop_oneof![
            Just(Type::Null),
            Just(Type::Boolean),
            Just(Type::Long),
            (19_u8..39).prop_map(Type::Decimal),
            Just(Type::Double),
            Just(Type::Text),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|kind| Type::Array(Box::new(kind))),
                proptest::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|fields| Type::Struct(fields.into_iter().collect::<Vec<_>>().into())),
            ]
        })
    }

    /// Types without regard to the order in which fields were seen.
    fn sorted(kind: Type) -> Type {
        match kind {
            Type::Array(element) => Type::Array(Box::new(sorted(*element))),
            Type::Struct(fields) => {
                let mut fields: Vec<_> = fields.fields.into_iter().map(|(name, kind)| (name, sorted(kind))).collect();
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                Type::Struct(fields.into())
            }
            kind => kind,
        }
    }

    proptest! {
        #[test]
        fn neither_order_nor_grouping_matters(a in kinds(), b in kinds(), c in kinds()) {
            let left = a.clone().merge(b.clone()).merge(c.clone());
            let right = a.clone().merge(b.clone().merge(c.clone()));
            prop_assert_eq!(sorted(left.clone()), sorted(right));
            prop_assert_eq!(sorted(left), sorted(c.merge(b).merge(a.clone())));
            prop_assert_eq!(sorted(a.clone().merge(a.clone())), sorted(a));
        }
    }

    #[test]
    fn a_schema_is_sorted_and_holds_nothing_empty() {
        let mut inferred = Inferred { corrupt: true, ..Inferred::default() };
        let empty = || Type::Struct(Fields::default());
        for (name, kind) in [
            ("\u{ffff}", Type::Long),
            ("😀", Type::Long),
            ("b", Type::Null),
            ("", Type::Long),
            ("c", empty()),
            ("d", Type::Array(Box::new(empty()))),
            ("Z", Type::Array(Box::new(Type::Null))),
        ] {
            inferred.add(Type::Struct(vec![(name.to_owned(), kind)].into()));
        }
        let schema = inferred.into_schema();
        assert_eq!(schema.names().collect::<Vec<_>>(), ["Z", CORRUPT_RECORD, "b", "😀", "\u{ffff}"]);
        assert_eq!(schema.0.field(2), &Type::Text);
    }
}
