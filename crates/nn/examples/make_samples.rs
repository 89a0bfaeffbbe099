//! Writes `models/samples`: test images 0, 1 and 2 of Fashion-MNIST as PNG, and `labels.json`.
//!
//! Run from the root of the repository, with the Debian package `dataset-fashion-mnist` installed:
//! `cargo run -p cipherform-nn --example make_samples`

use std::path::Path;

use cipherform_nn::data::{FashionMnist, Split};
use image::{ExtendedColorType, ImageFormat};

const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new("models/samples");
    std::fs::create_dir_all(dir)?;
    let test = FashionMnist::load(None, Split::Test)?;
    let mut labels = Vec::new();
    for index in 0..3 {
        let (image, label) = test.get(index)?;
        let file = format!("{index}.png");
        let (width, height) = (u32::try_from(image.width)?, u32::try_from(image.height)?);
        let (color, format) = (ExtendedColorType::L8, ImageFormat::Png);
        let path = dir.join(&file);
        image::save_buffer_with_format(path, &image.pixels, width, height, color, format)?;
        let class = CLASSES[usize::from(label)];
        labels.push(serde_json::json!({
            "file": file, "dataset": "fashion-mnist test", "index": index, "label": label, "class": class
        }));
    }
    std::fs::write(dir.join("labels.json"), serde_json::to_string_pretty(&labels)? + "\n")?;
    Ok(())
}
