use super::{
    BATCH, BatchHead, DEVICE, Device, END, End, FRAME_HEAD_BYTES, HEADER, Header, MAGIC,
    MAX_FRAME_BYTES, VERSION,
};
use std::io::{self, Read};

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Something else.
    #[error("this is no capture: make one with `gateway capture`")]
    Foreign,
    /// From a later version.
    #[error("it has format {version}, and this version reads up to {VERSION}: use a newer one")]
    Newer {
        /// The version of its format.
        version: u16,
    },
    /// It has no end.
    #[error(
        "it is cut off after {batches} batches, at byte {offset}: the capture was killed, or the \
         copy is not complete"
    )]
    CutOff {
        /// Whole batches before.
        batches: u64,
        /// Where the end is missing.
        offset: u64,
    },
    /// Its bytes are not those that were written.
    #[error("it is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// In what way.
        what: &'static str,
    },
    /// The system says no.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

/// What comes next in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A device.
    Device(Device),
    /// A batch, and its body.
    Batch(BatchHead<'a>, &'a [u8]),
    /// There is no more, and the file is whole.
    End(End),
}

/// Reads a capture from its beginning, and checks each byte of it.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    offset: u64,
    body: Vec<u8>,
    devices: u32,
    batches: u64,
    readings: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is no capture, a newer one, or damaged.
    pub fn open(mut input: R) -> Result<Self, CaptureError> {
        let mut head = Vec::new();
        input.by_ref().take(12).read_to_end(&mut head)?;
        if !head.starts_with(&MAGIC) {
            return Err(CaptureError::Foreign);
        }
        let [.., low, high, _, _] = head[..] else {
            return Err(CaptureError::CutOff { batches: 0, offset: head.len() as u64 });
        };
        if head.len() < 12 {
            return Err(CaptureError::CutOff { batches: 0, offset: head.len() as u64 });
        }
        match u16::from_le_bytes([low, high]) {
            VERSION => {}
            0 => return Err(CaptureError::Damaged { offset: 8, what: "there is no version 0" }),
            version => return Err(CaptureError::Newer { version }),
        }
        let header = Header {
            tool: String::new(),
            from_ns: 0,
            share: [1, 1],
            kept_tags: vec![],
            kept_fields: vec![],
            blanked_fields: vec![],
        };
        let mut reader =
            Self { input, header, offset: 12, body: vec![], devices: 0, batches: 0, readings: 0 };
        if reader.frame()? != HEADER {
            return Err(reader.damaged("it does not begin with its header"));
        }
        reader.header = serde_json::from_slice(&reader.body)
            .map_err(|_| reader.damaged("its header is not readable"))?;
        Ok(reader)
    }

    /// Where the next frame begins, in bytes: with the place after it, that of a batch for
    /// [`batch_in`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What was sampled.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next record. After the end there is none.
    ///
    /// # Errors
    /// The file is cut off or damaged.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from it")]
    pub fn next(&mut self) -> Result<Record<'_>, CaptureError> {
        let at = self.offset;
        let damaged = |what| CaptureError::Damaged { offset: at, what };
        match self.frame()? {
            DEVICE => {
                let device = device(&self.body)
                    .filter(|device| device.number == self.devices)
                    .ok_or(damaged("a device that does not fit"))?;
                self.devices += 1;
                Ok(Record::Device(device))
            }
            BATCH => {
                let (head, body) = batch(&self.body)
                    .filter(|(head, _)| head.device < self.devices)
                    .ok_or(damaged("a batch that does not fit"))?;
                self.batches += 1;
                self.readings += u64::from(head.readings);
                Ok(Record::Batch(head, body))
            }
            END => {
                let end: End = serde_json::from_slice(&self.body)
                    .map_err(|_| damaged("its end is not readable"))?;
                if (end.devices, end.batches, end.readings)
                    != (self.devices, self.batches, self.readings)
                {
                    return Err(damaged("its end counts other batches than there are"));
                }
                if self.input.read(&mut [0])? > 0 {
                    return Err(damaged("something comes after its end"));
                }
                Ok(Record::End(end))
            }
            _ => Err(damaged("a record of an unknown kind")),
        }
    }

    /// Reads the next frame into `body`; its kind.
    fn frame(&mut self) -> Result<u8, CaptureError> {
        let cut = CaptureError::CutOff { batches: self.batches, offset: self.offset };
        let mut head = Vec::with_capacity(FRAME_HEAD_BYTES);
        self.input.by_ref().take(FRAME_HEAD_BYTES as u64).read_to_end(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = head[..] else { return Err(cut) };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged("a record of impossible length"));
        }
        self.body.clear();
        self.input.by_ref().take(length.into()).read_to_end(&mut self.body)?;
        if self.body.len() < length as usize {
            return Err(cut);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &self.body);
        if crc != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(self.damaged("a checksum is wrong"));
        }
        self.offset += (FRAME_HEAD_BYTES + self.body.len()) as u64;
        Ok(kind)
    }

    fn damaged(&self, what: &'static str) -> CaptureError {
        CaptureError::Damaged { offset: self.offset, what }
    }
}

/// The batch in a frame that was read from its place in a file; `None` if it is not whole.
pub fn batch_in(frame: &[u8]) -> Option<(BatchHead<'_>, &[u8])> {
    let (length, rest) = take(frame)?;
    let (crc, rest) = take(rest)?;
    let (&kind, body) = rest.split_first()?;
    let is_whole = kind == BATCH
        && u32::from_le_bytes(length) as usize == body.len()
        && u32::from_le_bytes(crc) == crc32c::crc32c(rest);
    is_whole.then(|| batch(body)).flatten()
}

fn device(body: &[u8]) -> Option<Device> {
    let (number, rest) = take(body)?;
    let (name, rest) = text(rest)?;
    let (realm, rest) = text(rest)?;
    let (name, realm) = (name.to_owned(), realm.to_owned());
    rest.is_empty().then(|| Device { number: u32::from_le_bytes(number), name, realm })
}

fn batch(body: &[u8]) -> Option<(BatchHead<'_>, &[u8])> {
    let (device, rest) = take(body)?;
    let (arrival, rest) = take(rest)?;
    let (stream, rest) = take(rest)?;
    let (skipped, rest) = take(rest)?;
    let (readings, rest) = take(rest)?;
    let (left_out, rest) = take(rest)?;
    let (measurement, rest) = text(rest)?;
    let head = BatchHead {
        device: u32::from_le_bytes(device),
        arrival_us: u64::from_le_bytes(arrival),
        stream: u16::from_le_bytes(stream),
        skipped: u32::from_le_bytes(skipped),
        readings: u32::from_le_bytes(readings),
        left_out: u32::from_le_bytes(left_out),
        measurement,
    };
    Some((head, rest))
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest))
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
