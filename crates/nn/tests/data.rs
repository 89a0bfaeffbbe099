//! Images, IDX files and patches.

#[cfg(test)]
mod common;

use std::io::Write;

use cipherform_nn::data::{
    FASHION_MNIST_DIR, FashionMnist, IDX_LIMIT, IMAGE_LIMIT, Idx, Image, ImageFolder, Split,
    decode_image, patches, samples,
};
use cipherform_nn::{Error, InputKind, Levels, RandomModel};
use common::fixture;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

#[cfg(test)]
fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    bytes.extend(data);
    bytes
}

#[cfg(test)]
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn idx_files_parse_plain_and_compressed() {
    let bytes = idx(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let parsed = Idx::parse(&bytes).unwrap();
    assert_eq!(parsed, Idx::parse(&gzip(&bytes)).unwrap());
    let images = parsed.images().unwrap();
    assert_eq!(images[1], Image { height: 2, width: 3, pixels: vec![7, 8, 9, 10, 11, 12] });
    assert!(Idx::parse(&idx(&[3], &[1, 2, 3])).unwrap().images().is_err());
    assert!(Idx::parse(&idx(&[3, 0, 5], &[])).unwrap().images().is_err());
}

#[test]
fn lying_idx_headers_are_refused() {
    let good = idx(&[2, 2], &[1, 2, 3, 4]);
    let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 16]);
    let short = idx(&[2, 3], &[1, 2, 3, 4]);
    let long = idx(&[3], &[1, 2, 3, 4]);
    let gz_huge = gzip(&idx(&[60_000, 28, 28], &[0; 16]));
    let mut gz_cut = gzip(&good);
    gz_cut.truncate(gz_cut.len() - 1);
    let mut gz_flipped = gzip(&good);
    let last = gz_flipped.len() - 5; // inside the checksum
    gz_flipped[last] ^= 1;
    for bytes in [&huge, &short, &long, &gz_huge, &gz_cut, &gz_flipped, &good[..7].to_vec()] {
        assert!(matches!(Idx::parse(bytes), Err(Error::Malformed { .. })), "{bytes:?}");
    }
    // 65 MiB of zeros compress to 64 kB; the header is honest, the size still too large.
    let bomb = gzip(&idx(&[65 << 20], &vec![0; 65 << 20]));
    assert!(matches!(Idx::parse(&bomb), Err(Error::Malformed { .. })));
    let plain = vec![0; IDX_LIMIT as usize + 1];
    assert!(matches!(Idx::parse(&plain), Err(Error::TooLarge { .. })));
}

#[test]
fn a_missing_data_set_names_the_package() {
    let dir = tempfile::tempdir().unwrap();
    let error = FashionMnist::load(Some(dir.path()), Split::Test).unwrap_err();
    assert!(matches!(error, Error::DatasetMissing { .. }));
    assert!(error.to_string().contains("dataset-fashion-mnist"));
    // Half a data set, or one whose parts do not fit.
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("t10k-images-idx3-ubyte", &idx(&[1, 28, 28], &[0; 784]));
    let half = FashionMnist::load(Some(dir.path()), Split::Test);
    assert!(matches!(half, Err(Error::DatasetMissing { .. })));
    write("t10k-labels-idx1-ubyte", &idx(&[2], &[0, 1]));
    assert!(matches!(
        FashionMnist::load(Some(dir.path()), Split::Test),
        Err(Error::Malformed { .. })
    ));
    write("t10k-labels-idx1-ubyte", &idx(&[1], &[10]));
    assert!(matches!(
        FashionMnist::load(Some(dir.path()), Split::Test),
        Err(Error::Malformed { .. })
    ));
    write("t10k-labels-idx1-ubyte", &idx(&[1], &[9]));
    let tiny = FashionMnist::load(Some(dir.path()), Split::Test).unwrap();
    assert_eq!(tiny.get(0).unwrap().1, 9);
    assert!(matches!(tiny.get(1), Err(Error::IndexOutOfBounds { index: 1, count: 1, .. })));
}

#[test]
fn shipped_samples_are_the_first_test_images() {
    let samples = samples().unwrap();
    let labels: Vec<_> = samples.iter().map(|s| (s.index, s.label, s.class.as_str())).collect();
    assert_eq!(labels, [(0, 9, "Ankle boot"), (1, 2, "Pullover"), (2, 1, "Trouser")]);
    match FashionMnist::load(None, Split::Test) {
        Ok(test) => {
            assert_eq!(test.len(), 10_000);
            for sample in samples {
                assert_eq!(test.get(sample.index).unwrap(), (sample.image, sample.label));
            }
        }
        Err(error) => println!("skipped: {FASHION_MNIST_DIR} is not there ({error})"),
    }
}

#[test]
fn images_are_decoded_scaled_and_bounded() {
    let encode = |format, w: u32, h: u32| {
        let pixels = image::RgbImage::from_pixel(w, h, image::Rgb([200, 200, 200]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg] {
        for (w, h) in [(28, 28), (1, 1), (100, 37)] {
            let image = decode_image(&encode(format, w, h), 28, 28, false).unwrap();
            assert_eq!((image.height, image.width, image.pixels.len()), (28, 28, 784));
            assert!(image.pixels.iter().all(|p| p.abs_diff(200) <= 2));
        }
    }
    let colour = decode_image(&encode(image::ImageFormat::Png, 28, 28), 28, 28, true).unwrap();
    assert_eq!(colour.pixels, vec![200; 3 * 784]);
    let wide = encode(image::ImageFormat::Png, 9000, 1);
    assert!(matches!(decode_image(&wide, 28, 28, false), Err(Error::Image { .. })));
    assert!(matches!(decode_image(b"not an image", 28, 28, false), Err(Error::Image { .. })));
    assert!(matches!(decode_image(&[], 28, 28, false), Err(Error::Image { .. })));
    let long = vec![0; IMAGE_LIMIT as usize + 1];
    assert!(matches!(decode_image(&long, 28, 28, false), Err(Error::TooLarge { .. })));
}

#[test]
fn patches_are_cut_row_by_row_over_a_black_border() {
    // 6 x 6 pixels, patches of 4 at stride 2, border 1: 3 x 3 patches; mean 0.25, std 0.5.
    let config = fixture().model.config;
    let pixels: Vec<u8> = (0..36).collect();
    let input = patches(&config, &Image { height: 6, width: 6, pixels }).unwrap();
    let normal = |value: u8| (f64::from(value) / 255.0 - 0.25) / 0.5;
    assert_eq!(input.shape(), cipherform_nn::Shape::new(9, 16));
    let black = normal(0);
    assert_eq!(input.row(0)[..6], [black, black, black, black, black, normal(0)]);
    assert_eq!(input.row(0)[15..], [normal(2 * 6 + 2)]);
    // Patch 4 is the middle one: its corner is padded (2, 2), pixel (1, 1).
    assert_eq!(input.row(4)[..5], [7, 8, 9, 10, 13].map(normal));
    assert_eq!(input.row(8)[..4], [3 * 6 + 3, 3 * 6 + 4, 3 * 6 + 5, 0].map(normal));
    let small = Image { height: 5, width: 6, pixels: vec![0; 30] };
    assert!(matches!(patches(&config, &small), Err(Error::ShapeMismatch { .. })));
    let lying = Image { height: 6, width: 6, pixels: vec![0; 30] };
    assert!(matches!(patches(&config, &lying), Err(Error::ShapeMismatch { .. })));
    let vectors = RandomModel::default().generate().unwrap().config;
    assert!(matches!(patches(&vectors, &small), Err(Error::InvalidConfig { .. })));
}

#[test]
fn colour_patches_have_channels_innermost_and_folders_go_round_the_classes() {
    let mut config = fixture().model.config;
    let InputKind::Image { mean, std, .. } = &mut config.input else { panic!() };
    (*mean, *std) = (Levels::Colour([0.25, 0.5, 0.0]), Levels::Colour([0.5, 0.25, 1.0]));
    assert_eq!(config.input_size(), 48);
    let pixels: Vec<u8> = (0..108).collect();
    let input = patches(&config, &Image { height: 6, width: 6, pixels: pixels.clone() }).unwrap();
    let normal = |value: u8, c: usize| {
        (f64::from(value) / 255.0 - [0.25, 0.5, 0.0][c]) / [0.5, 0.25, 1.0][c]
    };
    // Patch 4 begins at pixel (1, 1), the eighth.
    assert_eq!(input.row(4)[..4], [normal(21, 0), normal(22, 1), normal(23, 2), normal(24, 0)]);
    assert_eq!(input.row(0)[..3], [normal(0, 0), normal(0, 1), normal(0, 2)]);
    let grey = Image { height: 6, width: 6, pixels: pixels[..36].to_vec() };
    assert!(matches!(patches(&config, &grey), Err(Error::ShapeMismatch { .. })));

    let dir = tempfile::tempdir().unwrap();
    let classes: Vec<String> = ["cat", "dog"].map(String::from).into();
    let missing = ImageFolder::open(dir.path(), Split::Test, &classes, 4);
    assert!(matches!(missing, Err(Error::DatasetMissing { .. })));
    for (class, red) in [("cat", [10, 20]), ("dog", [110, 120])] {
        std::fs::create_dir_all(dir.path().join("test").join(class)).unwrap();
        for (name, red) in ["b", "a"].iter().zip(red) {
            let picture = image::RgbImage::from_pixel(4, 4, image::Rgb([red, 0, 0]));
            let path = dir.path().join("test").join(class).join(format!("{name}.jpg"));
            picture.save(path).unwrap();
        }
    }
    let folder = ImageFolder::open(dir.path(), Split::Test, &classes, 4).unwrap();
    assert_eq!(folder.len(), 4);
    for (index, (red, label)) in [(20, 0), (120, 1), (10, 0), (110, 1)].into_iter().enumerate() {
        let (image, got) = folder.get(index).unwrap();
        assert_eq!((got, image.pixels.len()), (label, 48));
        assert!(image.pixels[0].abs_diff(red) <= 3, "{index}: {}", image.pixels[0]);
    }
    assert!(matches!(folder.get(4), Err(Error::IndexOutOfBounds { .. })));
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..4_usize,
    ) {
        let prefixes: [&[u8]; 4] =
            [&[], &[0, 0, 8, 3], &[0x1f, 0x8b, 8, 0], &[0x89, b'P', b'N', b'G', 13, 10, 26, 10]];
        let bytes = [prefixes[kind], &bytes[..]].concat();
        let _ = Idx::parse(&bytes);
        let _ = decode_image(&bytes, 28, 28, false);
    }
}
