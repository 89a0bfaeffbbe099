"""Checks the JSON of `cipherform demo --json FILE`: the promises that a run of the demo must keep."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    demo = json.load(file)

failures = []


def require(holds, promise):
    print(f"  {'ok  ' if holds else 'FAIL'} {promise}")
    if not holds:
        failures.append(promise)


inputs = demo["inputs"]
require(demo["schema"] == "cipherform.demo/1", "schema is cipherform.demo/1")
require(len(inputs) == 3, "three inputs")
for number, item in enumerate(inputs):
    encrypted, clear, true = (item[key] for key in ("encrypted_label", "clear_label", "true_label"))
    require(encrypted == clear, f"input {number}: encrypted label {encrypted}, clear label {clear}, true label {true}")
    error, bound = item["max_abs_logit_error"], item["logit_range"] * 2**-10
    if demo["label_only"]:
        require(error is None, f"input {number}: no logits came back")
        continue
    require(0 <= error <= bound, f"input {number}: logits within 2^-10 of their range ({error:.2e} of {bound:.2e})")
require(demo["security_bits"] >= 128, f"security of at least 128 bits ({demo['security_bits']})")
require(demo["attributed_fraction"] >= 0.98, f"operators explain 98 % of the time ({demo['attributed_fraction']:.4f})")
for counter in ("rotations", "relinearizations", "key_switches", "ct_ct", "ct_pt", "rescales"):
    predicted, observed = demo["predicted"][counter], demo["observed"][counter]
    require(predicted == observed, f"{counter}: {predicted} predicted, {observed} observed")
for what in ("upload_bytes", "download_bytes"):
    require(demo[what] == demo[f"predicted_{what}"], f"{what}: {demo[f'predicted_{what}']} predicted, {demo[what]} observed")
peak, predicted = demo["peak_rss_bytes"], demo["predicted_peak_rss_bytes"]
require(peak <= 8 << 30, f"at most 8 GiB ({peak / 2**30:.2f})")
require(abs(predicted / peak - 1) <= 0.2, f"memory predicted within 20 % ({predicted / 1e9:.2f} GB, seen {peak / 1e9:.2f})")
# Times depend on what else the machine does: shown, not required.
print(f"  time {demo['inference_s']:.1f} s an inference, {demo['predicted_s']:.1f} s predicted, {demo['wall_s']:.1f} s in all")

sys.exit(1 if failures else 0)
