"""How close enhanced images come to their references: PSNR, SSIM, LPIPS, or NIQE, time and size for each enhancer.

Without arguments: the six photographs of `detect_exdark.py`, darkened at three levels. With ``--data`` test sets as
they are distributed: LOL-v1 (``eval15``), LOL-v2, LSRW, SICE, and DICM, LIME, MEF, NPE, VV, which have no references.
Writes the table as Markdown, LaTeX, CSV, JSON and a page, and ``images.csv`` with the figures of every image.

    python experiments/enhance_lol.py
    python experiments/enhance_lol.py --data LOLv1/eval15 --lpips lpips_alex.pth --gt-mean
    python experiments/enhance_lol.py --data LOLv2 LSRW/Eval --enhancers raw,gamma,glare,glare@0.5,folder:their_results

A run that was killed goes on where it was. ``accelerate launch`` in place of ``python`` (on CPUs ``torchrun``) shares
the images among processes or machines; the table is the same. ``python -m detection restore`` is the same command.
"""

from functools import partial

from detection.cli import restore

main = partial(restore, program="experiments/enhance_lol.py")

if __name__ == "__main__":
    main()
