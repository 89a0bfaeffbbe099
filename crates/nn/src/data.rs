//! Images in: the Fashion-MNIST files, folders of JPEG files, PNG and JPEG, and the cut into patches.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use image::{DynamicImage, ImageReader, Limits, imageops};
use serde::Deserialize;

use crate::config::{InputKind, ModelConfig};
use crate::error::{Error, Result, read_bounded};
use crate::matrix::Matrix;
use crate::shape::Shape;

/// Where the Debian package `dataset-fashion-mnist` puts its files.
pub const FASHION_MNIST_DIR: &str = "/usr/share/datasets/fashion-mnist";

/// Side of a Fashion-MNIST image in pixels.
pub const FASHION_MNIST_SIDE: usize = 28;

/// Classes of Fashion-MNIST.
pub const FASHION_MNIST_CLASSES: u8 = 10;

/// Largest IDX file, as stored and as decompressed: the training images have 47 MB.
pub const IDX_LIMIT: u64 = 64 << 20;

/// Largest image file.
pub const IMAGE_LIMIT: u64 = 16 << 20;

/// Deflate cannot do better than 1032 to 1, so a header that claims more than that lies.
const DEFLATE_RATIO: u64 = 1040;

/// A grey or a colour image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Row-major, 0 is black; `height * width` of them, or three times as many: red, green, blue of every pixel.
    pub pixels: Vec<u8>,
}

/// An array of bytes in the IDX format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// Sizes, slowest first.
    pub dims: Vec<usize>,
    /// Row-major elements.
    pub data: Vec<u8>,
}

impl Idx {
    /// Parses IDX bytes, gzipped or not. The sizes in the header are compared with the bytes there are before anything
    /// is allocated for them, and decompression stops at [`IDX_LIMIT`].
    ///
    /// # Errors
    /// `TooLarge`, `Malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let stored = bytes.len() as u64;
        if stored > IDX_LIMIT {
            return Err(Error::TooLarge { what: IDX, bytes: stored, limit: IDX_LIMIT });
        }
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let most = stored.saturating_mul(DEFLATE_RATIO).min(IDX_LIMIT);
            Self::read(GzDecoder::new(bytes), most)
        } else {
            Self::read(bytes, stored)
        }
    }

    /// Reads from `source`, which can yield at most `most` bytes.
    fn read(mut source: impl Read, most: u64) -> Result<Self> {
        let mut word = || {
            let mut word = [0; 4];
            let read = source.read_exact(&mut word);
            read.map(|()| word).map_err(|e| Error::malformed(IDX, format!("header: {e}")))
        };
        let [0, 0, 8, rank @ 1..=3] = word()? else {
            let detail = "does not start with the magic number of one to three dimensions of bytes";
            return Err(Error::malformed(IDX, detail));
        };
        let mut dims = Vec::new();
        let mut count = 1_u64;
        for _ in 0..rank {
            let dim = u32::from_be_bytes(word()?);
            dims.push(dim as usize);
            count = count.saturating_mul(u64::from(dim));
        }
        if count > most {
            let detail = format!("header says {count} bytes of data, the file can hold {most}");
            return Err(Error::malformed(IDX, detail));
        }
        let mut data = Vec::new();
        let read = source.by_ref().take(count).read_to_end(&mut data);
        read.map_err(|e| Error::malformed(IDX, e.to_string()))?;
        if data.len() as u64 != count {
            let detail = format!("header says {count} bytes of data, got {}", data.len());
            return Err(Error::malformed(IDX, detail));
        }
        // Reading to the end also makes the gzip decoder check its trailer.
        match source.read(&mut [0]) {
            Ok(0) => Ok(Self { dims, data }),
            Ok(_) => Err(Error::malformed(IDX, "more bytes than the header says")),
            Err(e) => Err(Error::malformed(IDX, e.to_string())),
        }
    }

    /// The images of a three-dimensional array.
    ///
    /// # Errors
    /// `Malformed` when it is not three-dimensional or its images are empty.
    pub fn images(&self) -> Result<Vec<Image>> {
        match self.dims[..] {
            [_, height, width] if height > 0 && width > 0 => {
                let cut = self.data.chunks_exact(height * width);
                Ok(cut.map(|pixels| Image { height, width, pixels: pixels.to_vec() }).collect())
            }
            _ => {
                let detail = format!("holds {:?}, not images", self.dims);
                Err(Error::malformed(IDX, detail))
            }
        }
    }
}

const IDX: &str = "IDX file";

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// 60,000 images.
    Train,
    /// 10,000 images.
    Test,
}

/// One split of Fashion-MNIST (Xiao et al. 2017, MIT licence).
#[derive(Clone, Debug)]
pub struct FashionMnist {
    images: Idx,
    labels: Idx,
}

impl FashionMnist {
    /// Reads the two IDX files of a split, gzipped or not, from [`FASHION_MNIST_DIR`] or another directory.
    ///
    /// # Errors
    /// `DatasetMissing`; `Io`; `TooLarge`; `Malformed`.
    pub fn load(dir: Option<&Path>, split: Split) -> Result<Self> {
        let dir = dir.unwrap_or(Path::new(FASHION_MNIST_DIR));
        let prefix = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let read = |name: &str| {
            let candidates = [format!("{prefix}-{name}.gz"), format!("{prefix}-{name}")];
            let path: Option<PathBuf> =
                candidates.iter().map(|c| dir.join(c)).find(|p| p.is_file());
            let path = path.ok_or_else(|| Error::DatasetMissing { dir: dir.to_owned() })?;
            Idx::parse(&read_bounded(&path, IDX, IDX_LIMIT)?)
        };
        Self::new(read("images-idx3-ubyte")?, read("labels-idx1-ubyte")?)
    }

    fn new(images: Idx, labels: Idx) -> Result<Self> {
        let side = FASHION_MNIST_SIDE;
        let count = labels.dims.first().copied().unwrap_or(0);
        if labels.dims.len() != 1 || images.dims != [count, side, side] {
            let detail = format!(
                "expected n images of {side} x {side} and n labels, got {:?} and {:?}",
                images.dims, labels.dims
            );
            return Err(Error::malformed("data set", detail));
        }
        if let Some(label) = labels.data.iter().find(|l| **l >= FASHION_MNIST_CLASSES) {
            return Err(Error::malformed("data set", format!("label {label} is not below 10")));
        }
        Ok(Self { images, labels })
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.data.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.data.is_empty()
    }

    /// Image `index` and its label.
    ///
    /// # Errors
    /// `IndexOutOfBounds`.
    pub fn get(&self, index: usize) -> Result<(Image, u8)> {
        let (side, count) = (FASHION_MNIST_SIDE, self.len());
        let what = "Fashion-MNIST";
        let label = self.labels.data.get(index);
        let label = *label.ok_or(Error::IndexOutOfBounds { what, index, count })?;
        let pixels = self.images.data[index * side * side..(index + 1) * side * side].to_vec();
        Ok((Image { height: side, width: side, pixels }, label))
    }
}

/// A folder `test/CLASS/NAME.jpg` (or `train/..`): CIFAR-10 as JPEG files. Image i is of class `i mod C`, classes and names in
/// alphabetical order, so that the first n images hold every class.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    /// By class.
    files: Vec<Vec<PathBuf>>,
    side: usize,
}

impl ImageFolder {
    /// Lists the files of a split; images are `side` by `side` in colour.
    ///
    /// # Errors
    /// `DatasetMissing` without the split's folder or a class's files; `Io`.
    pub fn open(dir: &Path, split: Split, classes: &[String], side: usize) -> Result<Self> {
        let dir = dir.join(if split == Split::Train { "train" } else { "test" });
        let files = classes.iter().map(|class| {
            let folder = dir.join(class);
            let missing = || Error::DatasetMissing { dir: folder.clone() };
            let entries = std::fs::read_dir(&folder).map_err(|_| missing())?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|e| e.ok().map(|e| e.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "jpg"))
                .collect();
            files.sort();
            if files.is_empty() { Err(missing()) } else { Ok(files) }
        });
        Ok(Self { files: files.collect::<Result<_>>()?, side })
    }

    /// Number of images: as many of every class as the smallest has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len() * self.files.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Image `index` and its label.
    ///
    /// # Errors
    /// `IndexOutOfBounds`; `Io`, and as [`decode_image`].
    pub fn get(&self, index: usize) -> Result<(Image, usize)> {
        let label = index % self.files.len().max(1);
        let path = self.files.get(label).and_then(|f| f.get(index / self.files.len()));
        let (what, count) = ("image folder", self.len());
        let path = path.ok_or(Error::IndexOutOfBounds { what, index, count })?;
        let bytes = read_bounded(path, "image file", IMAGE_LIMIT)?;
        Ok((decode_image(&bytes, self.side, self.side, true)?, label))
    }
}

/// Decodes a PNG or JPEG file, to grey unless in `colour`, and scales it to `height` by `width` unless it has that size already. Nothing
/// is inverted: Fashion-MNIST shows light clothes on black.
///
/// # Errors
/// `TooLarge` beyond [`IMAGE_LIMIT`]; `Image` for other formats, broken files, more than 8192 pixels a side, or more
/// than 256 MiB of decoder memory.
pub fn decode_image(bytes: &[u8], height: usize, width: usize, colour: bool) -> Result<Image> {
    if bytes.len() as u64 > IMAGE_LIMIT {
        let bytes = bytes.len() as u64;
        return Err(Error::TooLarge { what: "image file", bytes, limit: IMAGE_LIMIT });
    }
    let refused = |e: image::ImageError| Error::Image { detail: e.to_string() };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| Error::Image { detail: e.to_string() })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(8192);
    limits.max_image_height = Some(8192);
    limits.max_alloc = Some(256 << 20);
    reader.limits(limits);
    let decoded = reader.decode().map_err(refused)?;
    let decoded: DynamicImage =
        if colour { decoded.into_rgb8().into() } else { decoded.into_luma8().into() };
    let (w, h) = (width as u32, height as u32);
    let decoded = if (decoded.width(), decoded.height()) == (w, h) {
        decoded
    } else {
        decoded.resize_exact(w, h, imageops::FilterType::Triangle)
    };
    Ok(Image { height, width, pixels: decoded.into_bytes() })
}

/// Cuts an image into the model's patches: `[T, patch²]` a channel, normalised; padding has the normalised value of black.
///
/// # Errors
/// `InvalidConfig`, also when the model does not take images; `ShapeMismatch` for another image size or number of channels.
pub fn patches(config: &ModelConfig, image: &Image) -> Result<Matrix> {
    config.validate()?;
    let InputKind::Image { height, width, patch, stride, padding, mean, std } = config.input else {
        return Err(Error::InvalidConfig {
            field: "input.kind".to_owned(),
            expected: "image, to classify an image".to_owned(),
            got: "vectors".to_owned(),
        });
    };
    let channels = mean.channels().len();
    let expected = Shape::new(height, width * channels);
    let got = Shape::new(image.height, image.pixels.len() / image.height.max(1));
    if expected != got || image.width != width {
        return Err(Error::ShapeMismatch { op: "patches", expected, got });
    }
    let pixel = |y: usize, x: usize, c: usize| {
        // y and x count from the padded corner.
        let inside = y.checked_sub(padding).zip(x.checked_sub(padding));
        let value = match inside {
            Some((y, x)) if y < height && x < width => image.pixels[(y * width + x) * channels + c],
            _ => 0,
        };
        (f64::from(value) / 255.0 - mean.channels()[c]) / std.channels()[c]
    };
    let across = (width + 2 * padding - patch) / stride + 1;
    let mut out = Matrix::zeros(config.tokens, config.input_size());
    for t in 0..config.tokens {
        let (top, left) = (t / across * stride, t % across * stride);
        for (i, value) in out.row_mut(t).iter_mut().enumerate() {
            let (i, c) = (i / channels, i % channels);
            *value = pixel(top + i / patch, left + i % patch, c);
        }
    }
    Ok(out)
}

/// A test image that ships with the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its number in the Fashion-MNIST test set.
    pub index: usize,
    /// The image.
    pub image: Image,
    /// True class.
    pub label: u8,
    /// Name of that class.
    pub class: String,
}

/// Test images 0, 1 and 2 of Fashion-MNIST, from `models/samples` (written by the example `make_samples` of this
/// crate), compiled in: the demo needs no data set.
///
/// # Errors
/// `Malformed` or `Image` when the compiled-in files are broken.
pub fn samples() -> Result<Vec<Sample>> {
    #[derive(Deserialize)]
    struct Entry {
        index: usize,
        label: u8,
        class: String,
    }
    let labels: Vec<Entry> =
        serde_json::from_slice(include_bytes!("../../../models/samples/labels.json"))
            .map_err(|e| Error::malformed("labels.json", e.to_string()))?;
    let files: [&[u8]; 3] = [
        include_bytes!("../../../models/samples/0.png"),
        include_bytes!("../../../models/samples/1.png"),
        include_bytes!("../../../models/samples/2.png"),
    ];
    let side = FASHION_MNIST_SIDE;
    labels
        .into_iter()
        .zip(files)
        .map(|(Entry { index, label, class }, png)| {
            Ok(Sample { index, image: decode_image(png, side, side, false)?, label, class })
        })
        .collect()
}
