//! NumPy's array files, version 1.0: a header in text, and the numbers.

/// The length of the header is a multiple of this, so that numbers are aligned.
const ALIGNMENT: usize = 64;

/// A number as an array file stores it, the lowest byte first.
pub(super) trait Number: Copy {
    /// NumPy's name of the type.
    const DESCR: &'static str;

    /// Appends the number's bytes.
    fn push(self, bytes: &mut Vec<u8>);
}

impl Number for f32 {
    const DESCR: &'static str = "<f4";

    fn push(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }
}

impl Number for i64 {
    const DESCR: &'static str = "<i8";

    fn push(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }
}

impl Number for bool {
    const DESCR: &'static str = "|b1";

    fn push(self, bytes: &mut Vec<u8>) {
        bytes.push(self.into());
    }
}

/// Returns an array as a file.
///
/// # Shapes
/// - `numbers`: `shape`, flattened with the last axis innermost
pub(super) fn file<N: Number>(numbers: &[N], shape: &[usize]) -> Vec<u8> {
    let mut bytes = header(N::DESCR, shape);
    for number in numbers {
        number.push(&mut bytes);
    }
    bytes
}

/// Returns everything before the numbers.
pub(super) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let axes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    // Magic, version and length take 10 bytes, the end of the line one.
    let whole = (10 + text.len() + 1).next_multiple_of(ALIGNMENT);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((whole - 10) as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(whole - 1, b' ');
    bytes.push(b'\n');
    bytes
}
