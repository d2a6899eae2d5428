//! Numbers as the script packs them: little-endian, amounts as doubles that hold integers.

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's data is not in the expected form")]
pub(super) struct Malformed;

/// 2^53: the end of exact integers in a double.
pub(super) const EXACT: u64 = 1 << 53;

/// Appends an amount; above [`EXACT`] it is [`EXACT`].
#[expect(clippy::cast_precision_loss, reason = "integers up to 2^53 are exact")]
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&(number.min(EXACT) as f64).to_le_bytes());
}

/// Appends an amount that may be negative, within ±[`EXACT`].
#[expect(clippy::cast_precision_loss, reason = "integers up to 2^53 are exact")]
pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    let bound = EXACT.cast_signed();
    out.extend_from_slice(&(number.clamp(-bound, bound) as f64).to_le_bytes());
}

/// Appends a count or an index in two bytes. Callers bound it.
pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
}

/// Reads what was packed, front to back.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u16::from_le_bytes(self.array()?)))
    }

    pub(super) fn weight(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        u64::try_from(self.signed()?).map_err(|_| Malformed)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be an exact integer"
    )]
    #[expect(clippy::cast_precision_loss, reason = "2^53 is exact")]
    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = f64::from_le_bytes(self.array()?);
        if number.abs() > EXACT as f64 || number.fract() != 0.0 {
            Err(Malformed)
        } else {
            Ok(number as i64)
        }
    }

    /// Whether all was read.
    pub(super) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }
}
