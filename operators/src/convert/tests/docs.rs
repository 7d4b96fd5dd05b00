//! The examples of `docs/convert.md`.

use super::*;

#[tokio::test]
async fn examples_are_true() {
    let text = include_str!("../../../../docs/convert.md");
    let (mut lines, mut examples) = (String::new(), 0);
    for block in text.split("\n```") {
        let Some((kind, body)) = block.split_once('\n') else { continue };
        let cast = match kind {
            "ndjson" => {
                lines = body.to_owned();
                continue;
            }
            "json lossless" => Cast::Lossless,
            "json spark" => Cast::Spark,
            _ => continue,
        };
        let mut world = World::new(&[("a.ndjson", lines.as_bytes())]).await;
        world.options.cast = cast;
        let (_, rows) = world.converted().await;
        let expected: Vec<Row> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), expected, "{lines}");
        examples += 1;
    }
    assert_eq!(examples, 4);
}
