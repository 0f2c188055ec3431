"""Fine-tune a YOLO: on what enhancers make of dark images, or into the built-in detector.

With ``--enhancers``, the standard protocol: for every enhancer (``raw`` is none at all) a YOLO is trained on the
enhanced training images, then measured on the held-out ones behind the same enhancer; one table. With
``--seeds N`` every training is repeated, and the table says the mean and the spread.

    python experiments/finetune_detector.py --data exdark --enhancers raw,clahe,glare --seeds 3

Without, yolo26n with ExDark's twelve classes, a little further trained on clean photographs: no image is darkened
or enhanced, so the detector favours no enhancer. Images with an even number in their name are trained on, those
with an odd number are measured on (COCO mAP by pycocotools, against the same rows of yolo26n as it came). The
result goes to ``detection/detectors/weights/``: fp16 safetensors, a YAML with the architecture, and a card.

    python experiments/finetune_detector.py --weights yolo26n.pt --data coco_dark_source

``python -m detection finetune`` is the same command.
"""

from functools import partial

from detection.cli import finetune

main = partial(finetune, program="experiments/finetune_detector.py")

if __name__ == "__main__":
    main()
