//! Writes Protocol Buffers. ONNX needs integers, bytes and nested messages of them, so this
//! is the whole encoding: <https://protobuf.dev/programming-guides/encoding/>.

/// An encoded message. Fields are added in any order; a repeated field is added once per value.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

/// How the value of a field is encoded.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    LengthDelimited = 2,
}

impl Message {
    /// Adds an integer.
    #[must_use]
    pub fn integer(mut self, field: u32, value: i64) -> Self {
        self.tag(field, WireType::Varint);
        // A negative number is encoded as its two's complement.
        self.varint(value as u64);
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, WireType::LengthDelimited);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// Adds a message.
    #[must_use]
    pub fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// Adds each value of a repeated field with `add`.
    #[must_use]
    pub fn repeat<T>(self, values: &[T], add: impl Fn(Self, &T) -> Self) -> Self {
        values.iter().fold(self, add)
    }

    /// Returns the encoded bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn tag(&mut self, field: u32, wire_type: WireType) {
        self.varint(u64::from(field) << 3 | wire_type as u64);
    }

    /// Appends seven bits per byte, the lowest first. All bytes but the last have the high bit set.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_in_the_examples_of_the_specification() {
        // The specification's own: field 1 = 150, field 2 = "testing", field 3 = { 1: 150 }.
        let inner = Message::default().integer(1, 150);
        assert_eq!(inner.0, [0x08, 0x96, 0x01]);
        let text = Message::default().text(2, "testing");
        assert_eq!(text.0, [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        let nested = Message::default().message(3, &inner);
        assert_eq!(nested.0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        let minus_two = Message::default().integer(1, -2);
        assert_eq!(minus_two.0[1..], [0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}
