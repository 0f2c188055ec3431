"""Tell how close enhanced images come to their references (PSNR, SSIM, LPIPS), or how natural they look (NIQE).

    python experiments/enhance_lol.py
    python experiments/enhance_lol.py --data LOLv1/eval15 --enhancers raw,gamma,glare,folder:their_results --gt-mean

``python -m detection restore`` is the same command; README.md beside this file says what it takes and what it writes.
"""

from functools import partial

from detection.cli import restore

main = partial(restore, program="experiments/enhance_lol.py")

if __name__ == "__main__":
    main()
