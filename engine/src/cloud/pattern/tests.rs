use proptest::prelude::*;
use serde_json::json;

use super::*;

fn takes(pattern: Value, event: Value) -> bool {
    Pattern::parse(&pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(&event)
}

#[test]
fn the_guides_example_of_each_matcher_holds() {
    let event = json!({
        "source": "aws.ec2", "count": 300, "rate": 2.5, "empty": "", "nothing": null, "on": true,
        "ip": "10.0.0.7", "tags": ["red", "blue"], "file": "dir/Photo.PNG", "none": [],
        "detail": { "state": "running", "deep": { "x": 1 } },
        "rows": [{ "name": "a", "size": 1 }, { "name": "b", "size": 2 }],
    });
    for (pattern, expected) in [
        (json!({ "source": ["aws.ec2", "aws.s3"] }), true),
        (json!({ "source": ["aws.s3"] }), false),
        (json!({ "source": ["aws.ec2"], "detail": { "state": ["stopped"] } }), false),
        (json!({ "count": [300] }), true),
        (json!({ "count": [300.0] }), false),
        (json!({ "count": ["300"] }), false),
        (json!({ "empty": [""] }), true),
        (json!({ "nothing": [null] }), true),
        (json!({ "absent": [null] }), false),
        (json!({ "on": [true] }), true),
        (json!({ "tags": ["blue"] }), true),
        (json!({ "tags": ["green"] }), false),
        (json!({ "source": [{ "prefix": "aws." }] }), true),
        (json!({ "source": [{ "prefix": "ec2" }] }), false),
        (json!({ "source": [{ "prefix": { "equals-ignore-case": "AWS." } }] }), true),
        (json!({ "file": [{ "suffix": ".png" }] }), false),
        (json!({ "file": [{ "suffix": { "equals-ignore-case": ".png" } }] }), true),
        (json!({ "file": [{ "equals-ignore-case": "DIR/photo.png" }] }), true),
        (json!({ "file": [{ "wildcard": "dir/*.PNG" }] }), true),
        (json!({ "file": [{ "wildcard": "dir/*o*o.*" }] }), true),
        (json!({ "file": [{ "wildcard": "dir" }] }), false),
        (json!({ "count": [{ "numeric": [">", 0, "<=", 300] }] }), true),
        (json!({ "count": [{ "numeric": ["=", 300.0] }] }), true),
        (json!({ "rate": [{ "numeric": ["<", 2.5] }] }), false),
        (json!({ "source": [{ "numeric": ["<", 2.5] }] }), false),
        (json!({ "ip": [{ "cidr": "10.0.0.0/24" }] }), true),
        (json!({ "ip": [{ "cidr": "10.0.1.0/24" }] }), false),
        (json!({ "source": [{ "exists": true }] }), true),
        (json!({ "nothing": [{ "exists": true }] }), true),
        (json!({ "absent": [{ "exists": true }] }), false),
        (json!({ "absent": [{ "exists": false }] }), true),
        (json!({ "detail": { "absent": [{ "exists": false }] } }), true),
        (json!({ "other": { "absent": [{ "exists": false }] } }), true),
        (json!({ "detail": [{ "exists": true }] }), false),
        (json!({ "none": [{ "exists": false }] }), true),
        (json!({ "source": [{ "anything-but": "aws.s3" }] }), true),
        (json!({ "source": [{ "anything-but": ["aws.s3", "aws.ec2"] }] }), false),
        (json!({ "absent": [{ "anything-but": "x" }] }), false),
        (json!({ "count": [{ "anything-but": [100, 200] }] }), true),
        (json!({ "source": [{ "anything-but": { "prefix": "aws" } }] }), false),
        (json!({ "source": [{ "anything-but": { "prefix": ["x", "y"] } }] }), true),
        (json!({ "file": [{ "anything-but": { "suffix": ".gif" } }] }), true),
        (json!({ "source": [{ "anything-but": { "equals-ignore-case": ["AWS.EC2"] } }] }), false),
        (json!({ "file": [{ "anything-but": { "wildcard": "*/lib/*" } }] }), true),
        (json!({ "detail": { "deep": { "x": [1] } } }), true),
        (json!({ "$or": [{ "source": ["x"] }, { "count": [300] }] }), true),
        (json!({ "$or": [{ "source": ["x"] }, { "count": [1] }] }), false),
        (json!({ "on": [false], "$or": [{ "source": ["x"] }, { "count": [300] }] }), false),
        (json!({ "detail": { "$or": [{ "state": ["x"] }, { "deep": { "x": [1] } }] } }), true),
        (json!({ "rows": { "name": ["a"], "size": [1] } }), true),
        (json!({ "rows": { "name": ["a"], "size": [2] } }), false),
    ] {
        assert_eq!(takes(pattern.clone(), event.clone()), expected, "{pattern}");
    }
}

#[test]
fn a_wrong_pattern_is_refused_and_the_place_named() {
    for (pattern, place) in [
        (json!([]), "object"),
        (json!({}), "object"),
        (json!({ "detail": "x" }), "the pattern.detail"),
        (json!({ "detail": {} }), "the pattern.detail"),
        (json!({ "detail": { "state": [] } }), "the pattern.detail.state"),
        (json!({ "a": [["x"]] }), "the pattern.a"),
        (json!({ "a": [{ "like": "x" }] }), "no matcher like"),
        (json!({ "a": [{ "prefix": 1 }] }), "prefix"),
        (json!({ "a": [{ "prefix": "x", "suffix": "y" }] }), "one field"),
        (json!({ "a": [{ "numeric": [">"] }] }), "numeric"),
        (json!({ "a": [{ "numeric": ["!", 1] }] }), "numeric"),
        (json!({ "a": [{ "exists": "yes" }] }), "exists"),
        (json!({ "a": [{ "anything-but": [] }] }), "anything-but"),
        (json!({ "a": [{ "wildcard": "a**b" }] }), "wildcard"),
        (json!({ "a": [{ "wildcard": "a\\b" }] }), "wildcard"),
        (json!({ "a": [{ "cidr": "10.0.0.0/33" }] }), "cidr"),
        (json!({ "$or": [{ "a": [1] }] }), "$or"),
    ] {
        let error = Pattern::parse(&pattern).expect_err(&pattern.to_string());
        assert!(error.contains(place), "{pattern}: {error}");
    }
}

/// The plainest right matcher of wildcards.
fn plainly(pattern: &[char], text: &[char]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some('*'), _) => plainly(&pattern[1..], text) || (!text.is_empty() && plainly(pattern, &text[1..])),
        (Some(p), Some(t)) => p == t && plainly(&pattern[1..], &text[1..]),
        _ => false,
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn wildcards_match_as_the_plain_matcher_does(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
        prop_assume!(!pattern.contains("**"));
        let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        prop_assert_eq!(takes(json!({ "x": [{ "wildcard": pattern }] }), json!({ "x": text })), plainly(&p, &t));
    }

    #[test]
    fn a_pattern_made_of_an_event_takes_it(
        fields in prop::collection::btree_map("[a-d]", prop::collection::vec(scalar(), 1..3), 1..4),
    ) {
        let event = json!({ "detail": fields.iter().map(|(k, v)| (k.clone(), v[0].clone())).collect::<Map<_, _>>() });
        let taken = takes(json!({ "detail": fields }), event);
        prop_assert!(taken);
    }

    #[test]
    fn anything_but_is_the_opposite_of_a_value(a in "[a-c]{0,2}", b in "[a-c]{0,2}") {
        for matcher in ["prefix", "suffix", "equals-ignore-case"] {
            let straight = takes(json!({ "x": [{ matcher: a }] }), json!({ "x": b }));
            prop_assert_eq!(takes(json!({ "x": [{ "anything-but": { matcher: a } }] }), json!({ "x": b })), !straight);
        }
        prop_assert_eq!(takes(json!({ "x": [{ "anything-but": a }] }), json!({ "x": b })), a != b);
    }

    #[test]
    fn one_element_of_an_array_is_enough(values in prop::collection::vec(scalar(), 1..5), wanted in scalar()) {
        let expected = values.contains(&wanted);
        prop_assert_eq!(takes(json!({ "x": [wanted] }), json!({ "x": values })), expected);
    }
}
