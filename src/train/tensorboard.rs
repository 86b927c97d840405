//! The curve of a training for TensorBoard: steps and values go in, an event file comes out.
//!
//! Sources: TensorFlow's `record_writer.h` (a record is its length, a masked CRC-32C of that, its bytes, a masked CRC-32C of these) and
//! `event.proto` (an event has a time, 1; a step, 2; a version, 3, or a summary, 5, of values: tag, 1, and number, 2). Times are left at
//! zero, so that the same training gives the same bytes: the charts' axis is the step.

/// The bytes of an event file.
#[derive(Debug)]
pub struct Events(Vec<u8>);

impl Default for Events {
    fn default() -> Self {
        let mut events = Events(Vec::new());
        events.record(&message(3, b"brain.Event:2"));
        events
    }
}

impl Events {
    /// Adds one step's values by name.
    pub fn push<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, f32)>) {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = message(1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend(value.to_le_bytes());
            summary.extend(message(1, &one));
        }
        let mut event = vec![2 << 3];
        varint(step, &mut event);
        event.extend(message(5, &summary));
        self.record(&event);
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn record(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        self.0.extend(length);
        self.0.extend(masked(&length).to_le_bytes());
        self.0.extend(bytes);
        self.0.extend(masked(bytes).to_le_bytes());
    }
}

/// A field of bytes: its number and wire type, length, bytes.
fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![field << 3 | 2];
    varint(bytes.len() as u64, &mut all);
    all.extend(bytes);
    all
}

/// Seven bits a byte, the lowest first.
fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
