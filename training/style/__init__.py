"""Style transfer: photographs, paintings, the perceptual loss, its two minimisers, scores and export."""
