from sana_judge.geneval import COCO_CLASSES


def test_the_classes_are_cocos_eighty_in_genevals_spelling():
    assert len(set(COCO_CLASSES)) == len(COCO_CLASSES) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[15], COCO_CLASSES[79]) == ("person", "cat", "toothbrush")
    assert (COCO_CLASSES[64], COCO_CLASSES[65], COCO_CLASSES[66]) == (
        "computer mouse",
        "tv remote",
        "computer keyboard",
    )
