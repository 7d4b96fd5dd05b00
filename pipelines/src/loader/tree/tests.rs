use serde_json::json;

use super::*;

fn parse(text: &str) -> Tree {
    Tree::parse(text).unwrap()
}

fn errors(text: &str) -> Vec<String> {
    let errors = Tree::parse(text).unwrap_err();
    errors.iter().map(|e| format!("{}:{}: {}", e.place.line, e.place.column, e.message)).collect()
}

#[test]
fn keys_and_values_know_their_places() {
    let tree = parse("a: 1\nlist:\n  - x: {y: \"zö\", z: [1, 2]}\nempty:\n");
    assert_eq!(tree.to_value(), json!({"a": 1, "list": [{"x": {"y": "zö", "z": [1, 2]}}], "empty": null}));
    let at = |path: Path, part| {
        let place = tree.place(&path, part);
        (place.line, place.column, place.width)
    };
    let x = Path::root().key("list").index(0).key("x");
    assert_eq!(at(Path::root().key("a"), Part::Value), (1, 4, 1));
    assert_eq!(at(x.key("y"), Part::Key), (3, 9, 1));
    assert_eq!(at(x.key("y"), Part::Value), (3, 12, 4));
    assert_eq!(at(x.key("z").index(1), Part::Value), (3, 25, 1));
    assert_eq!(at(x.key("missing").key("more"), Part::Value), (3, 5, 1));
    assert_eq!(at(Path::root().key("empty"), Part::Value), (4, 1, 5));
}

#[test]
fn numbers_keep_how_they_were_written() {
    let tree = parse("a: 1.10\nb: 007\nc: 0x10\nd: yes\ne: 1_000\nf: .inf\ng: true\nh: 99999999999999999999999\n");
    assert_eq!(
        tree.to_value(),
        json!({"a": 1.1, "b": "007", "c": 16, "d": "yes", "e": "1_000", "f": ".inf", "g": true,
            "h": 1e23})
    );
    let spellings: Vec<_> = tree.spellings().into_iter().map(|(path, value)| (path.to_string(), value)).collect();
    assert_eq!(
        spellings,
        [
            ("a".to_owned(), json!("1.10")),
            ("c".to_owned(), json!("0x10")),
            ("g".to_owned(), json!("true")),
            ("h".to_owned(), json!("99999999999999999999999"))
        ]
    );
}

#[test]
fn aliases_and_merges_are_read() {
    let tree = parse("a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n");
    assert_eq!(tree.to_value()["b"], json!({"x": 1, "y": 2}));
    assert_eq!(tree.to_value()["c"]["x"], json!(1));
    assert_eq!(tree.to_value()["c"]["y"], json!(3));
}

#[test]
fn duplicate_keys_are_all_told() {
    assert_eq!(
        errors("a: 1\nb: {c: 1, c: 2}\na: 3\n"),
        [
            "2:11: the key `c` stands twice in one map, first in line 2",
            "3:1: the key `a` stands twice in one map, first in line 1",
        ]
    );
}

#[test]
fn what_is_not_yaml_is_told_with_its_place() {
    assert_eq!(errors("a: [1, 2\n"), ["1:4: not valid YAML: unclosed bracket '['"]);
    assert_eq!(errors("a: \"x\n"), ["1:4: not valid YAML: unclosed quote"]);
    assert_eq!(errors("a:\n\t- b\n"), ["2:2: not valid YAML: tabs disallowed within this context (block indentation)"]);
    assert_eq!(errors("a: !secret x\n"), ["1:12: not valid YAML: unsupported tag `!secret`"]);
    assert_eq!(errors("a: *b\n"), ["1:4: not valid YAML: alias references unknown anchor"]);
    assert_eq!(errors("{a: 1}: 2\n"), ["1:1: not valid YAML: expected string scalar"]);
    assert_eq!(errors("a: 1\n---\nb: 1\n"), ["3:1: a file holds one pipeline: remove what follows `---`"]);
}

#[test]
fn bombs_are_defused() {
    let large = "the file is larger than a pipeline can be";
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    assert!(errors(&laughs)[0].contains(large), "{:?}", errors(&laughs));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(errors(&deep).len(), 1);
    let deep: String = (0..100).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(errors(&deep)[0].contains(large), "{:?}", errors(&deep));
    let wide = "- x\n".repeat(MAX_NODES + 1);
    assert!(errors(&wide)[0].contains(large), "{:?}", errors(&wide));
}
