//! Writes the metrics of a training as an event file for TensorBoard.
//!
//! The format is TensorFlow's. A record (`record_writer.h`) is its length, a masked CRC-32C of the
//! length, its bytes, and a masked CRC-32C of the bytes. An event (`event.proto`) has the fields
//! time (1), step (2), and either version (3) or summary (5); a value of a summary has a tag (1)
//! and a number (2). Times are left at zero, so that the same training gives the same bytes; the
//! axis of the charts is the step.

/// The bytes of an event file.
#[derive(Debug)]
pub struct Events(Vec<u8>);

impl Default for Events {
    fn default() -> Self {
        let mut events = Events(Vec::new());
        // TensorBoard expects the version of the format as the first event.
        events.record(&message(3, b"brain.Event:2"));
        events
    }
}

impl Events {
    /// Adds the values of one step, by name.
    pub fn push<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, f32)>) {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = message(1, tag.as_bytes());
            // Wire type 5: four bytes.
            entry.push(2 << 3 | 5);
            entry.extend(value.to_le_bytes());
            summary.extend(message(1, &entry));
        }
        // Wire type 0: a varint.
        let mut event = vec![2 << 3];
        varint(step, &mut event);
        event.extend(message(5, &summary));
        self.record(&event);
    }

    /// Returns the file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Appends a record.
    fn record(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        self.0.extend(length);
        self.0.extend(masked(&length).to_le_bytes());
        self.0.extend(bytes);
        self.0.extend(masked(bytes).to_le_bytes());
    }
}

/// Encodes a field of bytes: its number and wire type (2), its length, its bytes.
fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![field << 3 | 2];
    varint(bytes.len() as u64, &mut encoded);
    encoded.extend(bytes);
    encoded
}

/// Appends a varint: seven bits a byte, the lowest first. The highest bit marks all but the last.
fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Returns a CRC-32C, masked as `crc32c.h` of TensorFlow does.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
