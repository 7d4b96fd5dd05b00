//! The JSON Schema of a pipeline's file, for editors.
//!
//! Made from the types that read the file, so it says what they say: each type of operator is a branch by its `type`,
//! with its options, `inputs` and `running`, and nothing else.

use std::collections::BTreeSet;

use penstock_engine::graph::{OperatorType, Registry, Role};
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::document::{Common, Document};

/// Where definitions stand.
const DEFINITIONS: &str = "#/$defs/";

/// The schema, draft 2020-12.
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut root = generator.root_schema_for::<Document>().to_value();
    let common = generator.subschema_for::<Common>();
    let common = resolved(common, &generator).get("properties").cloned().unwrap_or_default();
    let mut definitions = Map::new();
    for known in registry.types() {
        definitions.insert(definition_name(known), operator_schema(known, &common, &mut generator));
    }
    definitions.extend(generator.take_definitions(true));

    root["title"] = json!("Penstock pipeline");
    root["required"] = json!(["pipeline"]);
    if let Some(pipeline) = root["properties"]["pipeline"].as_object_mut() {
        pipeline.remove("default");
    }
    for role in [Role::Source, Role::Transform, Role::Sink] {
        let section = &mut root["properties"][role.section()];
        section["type"] = json!("object");
        section["propertyNames"] = json!({"pattern": "^[a-z][a-z0-9_]*$"});
        section["additionalProperties"] = json!({"$ref": format!("{DEFINITIONS}{}", role.noun())});
        definitions.insert(role.noun().to_owned(), section_schema(registry, role));
    }
    root["$defs"] = Value::Null;
    root["$defs"] = reachable(definitions, &root).into();
    allow_variables(&mut root);
    root
}

fn definition_name(known: &dyn OperatorType) -> String {
    format!("{}_{}", known.role().noun(), known.name())
}

/// An operator of a section: one branch for each type.
fn section_schema(registry: &Registry, role: Role) -> Value {
    let types: Vec<&dyn OperatorType> = registry.types().filter(|known| known.role() == role).collect();
    if types.is_empty() {
        return Value::Bool(false);
    }
    let named = |known: &&dyn OperatorType| json!({"const": known.name(), "description": known.about()});
    let branch = |known: &&dyn OperatorType| {
        json!({
            "if": {"properties": {"type": {"const": known.name()}}, "required": ["type"]},
            "then": {"$ref": format!("{DEFINITIONS}{}", definition_name(*known))},
        })
    };
    json!({
        "type": "object",
        "properties": {"type": {"oneOf": types.iter().map(named).collect::<Vec<_>>()}},
        "required": ["type"],
        "allOf": types.iter().map(branch).collect::<Vec<_>>(),
    })
}

/// All fields of an operator of that type.
fn operator_schema(known: &dyn OperatorType, common: &Value, generator: &mut SchemaGenerator) -> Value {
    let options = known.schema(generator);
    let mut options = resolved(options, generator);
    let mut properties =
        Map::from_iter([("type".to_owned(), json!({"const": known.name(), "description": known.about()}))]);
    let mut required = vec![json!("type")];
    if known.input().is_some() {
        properties.insert("inputs".to_owned(), common["inputs"].clone());
        properties["inputs"]["minItems"] = json!(1);
        if let Some(inputs) = properties["inputs"].as_object_mut() {
            inputs.remove("default");
        }
        required.push(json!("inputs"));
    }
    properties.insert("running".to_owned(), common["running"].clone());
    if let Some(Value::Object(own)) = options.get_mut("properties").map(Value::take) {
        properties.extend(own);
    }
    if let Some(Value::Array(own)) = options.get_mut("required").map(Value::take) {
        required.extend(own);
    }
    options.insert("type".to_owned(), json!("object"));
    options.insert("description".to_owned(), json!(known.about()));
    options.insert("properties".to_owned(), properties.into());
    options.insert("required".to_owned(), required.into());
    options.insert("additionalProperties".to_owned(), json!(false));
    options.into()
}

/// The schema itself where it is only a reference to a definition.
fn resolved(schema: Schema, generator: &SchemaGenerator) -> Map<String, Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix(DEFINITIONS));
    let definition = name.and_then(|name| generator.definitions().get(name)).cloned();
    match definition.unwrap_or_else(|| schema.to_value()) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// The definitions that the root needs.
fn reachable(mut definitions: Map<String, Value>, root: &Value) -> Map<String, Value> {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(DEFINITIONS));
                found.extend(name.map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let (mut waiting, mut needed) = (Vec::new(), BTreeSet::new());
    references(root, &mut waiting);
    while let Some(name) = waiting.pop() {
        if let Some(definition) = definitions.get(&name)
            && needed.insert(name)
        {
            references(definition, &mut waiting);
        }
    }
    definitions.retain(|name, _| needed.contains(name));
    definitions.sort_keys();
    definitions
}

/// Where a number or a boolean stands, `${VAR}` may stand too.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let plain = |name: &Value| ["integer", "number", "boolean"].iter().any(|plain| name == plain);
            let types = match map.get("type") {
                Some(Value::Array(names)) if names.iter().any(plain) => Some(names.clone()),
                Some(name) if plain(name) => Some(vec![name.clone()]),
                _ => None,
            };
            if let Some(mut types) = types
                && !types.contains(&json!("string"))
            {
                types.push(json!("string"));
                map.insert("type".to_owned(), types.into());
                map.insert("pattern".to_owned(), json!(r"^\$\{[^}]*\}$"));
            }
            map.values_mut().for_each(allow_variables);
        }
        Value::Array(list) => list.iter_mut().for_each(allow_variables),
        _ => {}
    }
}
