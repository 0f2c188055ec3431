"""Tell which enhancer helps a detector in the dark: mAP, PSNR, SSIM and time for each light and enhancer.

    python experiments/detect_exdark.py
    python experiments/detect_exdark.py --data exdark --split test --enhancers raw,glare,my_module:enhance

``python -m detection bench`` is the same command; README.md beside this file says what it takes and what it writes.
"""

from functools import partial

from detection.cli import bench

main = partial(bench, program="experiments/detect_exdark.py")

if __name__ == "__main__":
    main()
