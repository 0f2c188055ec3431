"""Which enhancer helps a detector in the dark: mAP, PSNR, SSIM and time for each light level and enhancer.

Without arguments: six photographs that ship with the dependencies, darkened at three levels, the built-in
twelve-class detector. Writes the table as ``results.csv``, ``.md``, ``.tex`` and ``.json``, two charts, one
side-by-side picture per photograph, and ``report.html`` with all of it, a page for every browser.

    python experiments/detect_exdark.py
    python experiments/detect_exdark.py --data my_set/annotations.json --enhancers raw,glare,my_module:enhance
    python experiments/detect_exdark.py --data exdark --split test

A run that was killed goes on where it was. ``accelerate launch`` in place of ``python`` (on CPUs ``torchrun``) shares
the photographs among processes or machines; the table is the same. ``python -m detection bench`` is the same command.
"""

from functools import partial

from detection.cli import bench

main = partial(bench, program="experiments/detect_exdark.py")

if __name__ == "__main__":
    main()
