"""Fine-tune a YOLO: on what each enhancer makes of dark images, or into the built-in detector.

    python experiments/finetune_detector.py --data exdark --enhancers raw,clahe,glare --seeds 3
    python experiments/finetune_detector.py --data coco_dark_source --weights yolo26n.pt

``python -m detection finetune`` is the same command; README.md beside this file says what it takes and what it writes.
"""

from functools import partial

from detection.cli import finetune

main = partial(finetune, program="experiments/finetune_detector.py")

if __name__ == "__main__":
    main()
