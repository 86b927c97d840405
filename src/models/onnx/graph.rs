//! Builds an ONNX graph: constants, nodes, inputs and outputs, and the file around them.
//!
//! The numbers of the fields are those of `onnx.proto3`.

use std::fmt;

use super::protobuf::Message;

/// Version of ONNX's set of operators that the graphs use.
pub const OPSET: u32 = 17;
/// Version of the file format that came with [`OPSET`].
const IR_VERSION: i64 = 8;
/// Name of the first axis of every input and output, which may have any length.
const BATCH: &str = "batch";

/// Element type of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Single precision.
    Float = 1,
    /// Bytes: pixels.
    Uint8 = 2,
    /// Signed integers: codes.
    Int64 = 7,
}

/// An input or output of a graph. Its first axis is the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// Its element type.
    pub element: Element,
    /// The axes after the batch.
    pub shape: Vec<usize>,
}

impl Port {
    /// Describes an input or output.
    pub fn new(name: &'static str, element: Element, shape: &[usize]) -> Self {
        Port { name, element, shape: shape.to_vec() }
    }

    /// Returns the `ValueInfoProto`.
    fn message(&self) -> Message {
        let batch = Message::default().text(2, BATCH);
        let shape = Message::default().message(1, &batch).repeat(&self.shape, |shape, size| {
            shape.message(1, &Message::default().integer(1, *size as i64))
        });
        let tensor = Message::default().integer(1, self.element as i64).message(2, &shape);
        Message::default().text(1, self.name).message(2, &Message::default().message(1, &tensor))
    }
}

impl fmt::Display for Port {
    /// Writes `frames: uint8 [batch, 64, 64, 3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = match self.element {
            Element::Float => "float",
            Element::Uint8 => "uint8",
            Element::Int64 => "int64",
        };
        let sizes: Vec<String> = self.shape.iter().map(|size| format!(", {size}")).collect();
        write!(f, "{}: {element} [{BATCH}{}]", self.name, sizes.concat())
    }
}

/// A tensor inside a graph, by its name.
#[derive(Clone, Debug)]
pub struct Value(String);

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    /// A number.
    Integer(&'a str, i64),
    /// Several numbers.
    Integers(&'a str, &'a [i64]),
    /// A tensor with one integer.
    Tensor(&'a str, i64),
}

impl Attribute<'_> {
    /// Returns the `AttributeProto`.
    fn message(&self) -> Message {
        const INTEGER: i64 = 2;
        const TENSOR: i64 = 4;
        const INTEGERS: i64 = 7;
        let named = |name: &str, kind| Message::default().text(1, name).integer(20, kind);
        match *self {
            Attribute::Integer(name, value) => named(name, INTEGER).integer(3, value),
            Attribute::Integers(name, values) => {
                named(name, INTEGERS).repeat(values, |message, value| message.integer(8, *value))
            }
            Attribute::Tensor(name, value) => {
                let tensor = tensor("", Element::Int64, &[1], &value.to_le_bytes());
                named(name, TENSOR).message(5, &tensor)
            }
        }
    }
}

/// Returns a `TensorProto`.
fn tensor(name: &str, element: Element, shape: &[usize], bytes: &[u8]) -> Message {
    Message::default()
        .repeat(shape, |message, size| message.integer(1, *size as i64))
        .integer(2, element as i64)
        .text(8, name)
        .bytes(9, bytes)
}

/// A graph being built.
#[derive(Debug, Default)]
pub struct Graph {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    nodes: Vec<Message>,
    constants: Vec<Message>,
}

impl Graph {
    /// Adds an input.
    pub fn input(&mut self, port: Port) -> Value {
        let value = Value(port.name.to_owned());
        self.inputs.push(port);
        value
    }

    /// Makes `value` an output.
    pub fn output(&mut self, port: Port, value: &Value) {
        self.push("Identity", &[value], &[], port.name);
        self.outputs.push(port);
    }

    /// Adds a constant tensor with a name that no other constant has.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constants.push(tensor(name, Element::Float, shape, &bytes));
        Value(name.to_owned())
    }

    /// Adds a constant number.
    pub fn number(&mut self, value: f32) -> Value {
        let name = format!("number_{}", self.constants.len());
        self.weight(&name, &[], &[value])
    }

    /// Adds a constant list of integers, such as a shape.
    pub fn integers(&mut self, values: &[i64]) -> Value {
        let name = format!("integers_{}", self.constants.len());
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constants.push(tensor(&name, Element::Int64, &[values.len()], &bytes));
        Value(name)
    }

    /// Adds a node and returns its only output.
    pub fn node(&mut self, operator: &str, inputs: &[&Value], attributes: &[Attribute]) -> Value {
        let name = format!("{}_{}", operator.to_lowercase(), self.nodes.len());
        self.push(operator, inputs, attributes, &name);
        Value(name)
    }

    /// Adds a `NodeProto`.
    fn push(&mut self, operator: &str, inputs: &[&Value], attributes: &[Attribute], output: &str) {
        let node = Message::default()
            .repeat(inputs, |node, input| node.text(1, &input.0))
            .text(2, output)
            .text(3, &format!("{operator}_{}", self.nodes.len()))
            .text(4, operator)
            .repeat(attributes, |node, attribute| node.message(5, &attribute.message()));
        self.nodes.push(node);
    }

    /// Returns the inputs.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Returns the outputs.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Returns the bytes of the ONNX file.
    pub fn to_file(&self, name: &str, version: &str, metadata: &[(&str, String)]) -> Vec<u8> {
        let graph = Message::default()
            .repeat(&self.nodes, |graph, node| graph.message(1, node))
            .text(2, name)
            .repeat(&self.constants, |graph, constant| graph.message(5, constant))
            .repeat(&self.inputs, |graph, port| graph.message(11, &port.message()))
            .repeat(&self.outputs, |graph, port| graph.message(12, &port.message()));
        // An empty domain is ONNX's own set of operators.
        let opset = Message::default().text(1, "").integer(2, OPSET.into());
        Message::default()
            .integer(1, IR_VERSION)
            .text(2, "lapo")
            .text(3, version)
            .message(7, &graph)
            .message(8, &opset)
            .repeat(metadata, |model, (key, value)| {
                model.message(14, &Message::default().text(1, key).text(2, value))
            })
            .into_bytes()
    }
}
