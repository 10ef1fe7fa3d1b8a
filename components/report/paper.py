"""The results of the paper, copied from its tables.

Source: L. Zhang, A. Liu, J. Xiao and P. Taylor, "Dual Encoder Fusion U-Net (DEFU-Net) for Cross-manufacturer Chest
X-ray Segmentation", Tables I to IV. The published data are 138 Montgomery and 566 Shenzhen X-rays at 512x512, masks
dilated, split at random into 528 / 76 / 100; the paper gives one run each and no intervals.
"""

from __future__ import annotations

SOURCE = (
    "Zhang, Liu, Xiao and Taylor: Dual Encoder Fusion U-Net (DEFU-Net) for Cross-manufacturer Chest X-ray Segmentation"
)

# The project's names of the networks, in the order of the paper's tables, and the paper's names.
NAMES: dict[str, str] = {
    "unet": "U-Net",
    "res_unet": "Res-U-Net",
    "bcdu_net": "BCDU-Net",
    "incept_res_unet": "Incep-Res-U-Net",
    "r2_unet": "R2U-Net",
    "att_r2_unet": "Att-R2U-Net",
    "defu_net": "DEFU-Net",
}
# Networks that the paper does not have.
OTHERS = {"unet_bn": "U-Net with BatchNorm", "res_enc_unet": "Residual-encoder U-Net"}

# Columns of Tables I to III. ``paper_iou`` is the paper's column "IOU", which is not the Jaccard index.
COLUMNS = ("dice", "accuracy", "paper_iou", "precision", "recall", "f1", "auc")

_TRAINING = {
    "unet": (0.9039, 0.9403, 0.9695, 0.9063, 0.9032, 0.9043, 0.8757),
    "res_unet": (0.9688, 0.9807, 0.9902, 0.9744, 0.9641, 0.9689, 0.9748),
    "bcdu_net": (0.9707, 0.9816, 0.9908, 0.9761, 0.9665, 0.9707, 0.9719),
    "incept_res_unet": (0.9740, 0.9837, 0.9917, 0.9785, 0.9704, 0.9741, 0.9785),
    "r2_unet": (0.9793, 0.9868, 0.9932, 0.9823, 0.9771, 0.9795, 0.9800),
    "att_r2_unet": (0.9791, 0.9867, 0.9931, 0.9825, 0.9766, 0.9793, 0.9807),
    "defu_net": (0.9858, 0.9910, 0.9954, 0.9871, 0.9848, 0.9859, 0.9828),
}
_VALIDATION = {
    "unet": (0.7751, 0.8801, 0.9396, 0.8210, 0.7350, 0.7753, 0.8763),
    "res_unet": (0.9167, 0.9541, 0.9769, 0.9336, 0.9016, 0.9168, 0.9748),
    "bcdu_net": (0.9482, 0.9720, 0.9860, 0.9617, 0.9370, 0.9482, 0.9720),
    "incept_res_unet": (0.9495, 0.9722, 0.9860, 0.9730, 0.9298, 0.9496, 0.9788),
    "r2_unet": (0.9530, 0.9750, 0.9874, 0.9721, 0.9365, 0.9532, 0.9800),
    "att_r2_unet": (0.9497, 0.9747, 0.9872, 0.9706, 0.9339, 0.9498, 0.9809),
    "defu_net": (0.9578, 0.9765, 0.9882, 0.9739, 0.9440, 0.9579, 0.9826),
}
_TESTING = {
    "unet": (0.9190, 0.9539, 0.9764, 0.9445, 0.9013, 0.9194, 0.9556),
    "res_unet": (0.9602, 0.9767, 0.9880, 0.9690, 0.9541, 0.9605, 0.9804),
    "bcdu_net": (0.9658, 0.9795, 0.9897, 0.9645, 0.9684, 0.9658, 0.9813),
    "incept_res_unet": (0.9616, 0.9775, 0.9885, 0.9714, 0.9545, 0.9620, 0.9802),
    "r2_unet": (0.9647, 0.9794, 0.9896, 0.9748, 0.9568, 0.9648, 0.9815),
    "att_r2_unet": (0.9644, 0.9793, 0.9895, 0.9732, 0.9579, 0.9645, 0.9823),
    "defu_net": (0.9667, 0.9804, 0.9901, 0.9731, 0.9619, 0.9667, 0.9816),
}

# Tables I, II and III by split: {split: {network: {metric: figure}}}.
MIXED: dict[str, dict[str, dict[str, float]]] = {
    split: {network: dict(zip(COLUMNS, figures, strict=True)) for network, figures in table.items()}
    for split, table in (("train", _TRAINING), ("validation", _VALIDATION), ("test", _TESTING))
}

# Table IV: {scenario: {network: {metric: figure}}}.
ACROSS: dict[str, dict[str, dict[str, float]]] = {
    scenario: {network: {"dice": dice, "f1": f1} for network, (dice, f1) in table.items()}
    for scenario, table in (
        (
            "montgomery-to-shenzhen",
            {
                "unet": (0.8556, 0.8568),
                "res_unet": (0.6642, 0.6653),
                "bcdu_net": (0.9088, 0.9089),
                "incept_res_unet": (0.8896, 0.8918),
                "r2_unet": (0.9122, 0.9141),
                "att_r2_unet": (0.9069, 0.9097),
                "defu_net": (0.9154, 0.9158),
            },
        ),
        (
            "shenzhen-to-montgomery",
            {
                "unet": (0.7706, 0.7739),
                "res_unet": (0.8162, 0.8191),
                "bcdu_net": (0.7671, 0.9082),
                "incept_res_unet": (0.8984, 0.9022),
                "r2_unet": (0.8659, 0.8713),
                "att_r2_unet": (0.8659, 0.8713),
                "defu_net": (0.9227, 0.9231),
            },
        ),
    )
}

# Known errors and misnomers in the paper's results, as footnotes of the tables. The keys are (table, network, metric);
# ``*`` is every network.
IOU_NOTE = (
    "The paper’s “IOU” column is no Jaccard index: it is (1 + AC) / 2 to within 0.0007 on all 21 rows of Tables I to "
    "III, which is what its Eq. 4 gives when the sums run over the channel axis of length 1. “paper’s IOU” here is "
    "computed that same way, for comparison only; the true Jaccard index has its own column."
)
AUC_NOTE = (
    "The paper’s AUC for training and validation differ by at most 0.0006 in every row, most likely because one "
    "streaming metric was never reset between the two. Ours is computed per split."
)
BCDU_NOTE = (
    "The paper prints Dice 0.7671 beside F1 0.9082 for BCDU-Net trained on Shenzhen and tested on Montgomery: most "
    "likely a misprint, as all its other pairs differ by at most 0.006."
)
R2_NOTE = (
    "The paper prints one and the same pair for R2U-Net and Att-R2U-Net trained on Shenzhen and tested on Montgomery: "
    "most likely a copy."
)
NOTES: dict[tuple[str, str, str], str] = {
    **{(split, "*", "paper_iou"): IOU_NOTE for split in ("train", "validation", "test")},
    **{(split, "*", "auc"): AUC_NOTE for split in ("train", "validation")},
    ("shenzhen-to-montgomery", "bcdu_net", "dice"): BCDU_NOTE,
    ("shenzhen-to-montgomery", "bcdu_net", "f1"): BCDU_NOTE,
    ("shenzhen-to-montgomery", "r2_unet", "dice"): R2_NOTE,
    ("shenzhen-to-montgomery", "r2_unet", "f1"): R2_NOTE,
    ("shenzhen-to-montgomery", "att_r2_unet", "dice"): R2_NOTE,
    ("shenzhen-to-montgomery", "att_r2_unet", "f1"): R2_NOTE,
}


def name(network: str) -> str:
    """Return the display name of a network, or ``network`` if it is unknown."""
    return (NAMES | OTHERS).get(network, network)


def order(network: str) -> tuple[int, str]:
    """Return a sort key: networks in the order of the paper's tables, then others."""
    names = [*NAMES, *OTHERS]
    return (names.index(network) if network in names else len(names), network)
