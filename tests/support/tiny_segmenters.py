"""Tiny segmentation models and detectors: the real classes, random weights, files as published."""

from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

SIDE = 64
SQUARE = {"height": SIDE, "width": SIDE}
NAMES = ("cat", "bird; finch", "sky")
IDS = {
    "id2label": dict(enumerate(NAMES)),
    "label2id": {name: label for label, name in enumerate(NAMES)},
}
WORDS = ("<pad>", "<s>", "</s>", "<unk>", "bird", "finch", "cat", ".", "the", "task", "is")
TRANSFORMER = {"num_attention_heads": 2, "num_hidden_layers": 2}
TEXT = TRANSFORMER | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "vocab_size": 2000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SWIN = {
    "image_size": SIDE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tokenizer():
    """Splits at spaces and punctuation, knows a dozen words."""
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=77,
    )


def sam3():
    width = {"hidden_size": 16, "num_attention_heads": 2}
    layers = width | {"num_layers": 2, "intermediate_size": 32}
    config = hf.Sam3Config(
        vision_config={
            "backbone_config": width
            | {
                "model_type": "sam3_vit_model",
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "image_size": SIDE,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": 32,
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=TEXT | {"projection_dim": 16, "max_position_embeddings": 32},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {"num_queries": 5},
        mask_decoder_config=width | {"num_upsampling_stages": 2},
    )
    return hf.Sam3Model(config), hf.Sam3ImageProcessor(size=SQUARE), True


def clipseg():
    vision = TRANSFORMER | {
        "hidden_size": 16,
        "intermediate_size": 32,
        "image_size": SIDE,
        "patch_size": 8,
    }
    config = hf.CLIPSegConfig(
        text_config=TEXT | {"max_position_embeddings": 77},
        vision_config=vision,
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        conditional_layer=0,
    )
    return hf.CLIPSegForImageSegmentation(config), hf.ViTImageProcessor(size=SQUARE), True


def sam2():
    config = hf.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 2, 2, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "mlp_dim": 32,
            "iou_head_hidden_dim": 32,
        },
    )
    return hf.Sam2Model(config), hf.Sam2ImageProcessor(size=SQUARE), False


def grounding_dino():
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(**SWIN, out_features=STAGES[1:]),
        text_config=hf.BertConfig(**TEXT, max_position_embeddings=128),
        d_model=32,
        num_queries=6,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=32,
    )
    return (
        hf.GroundingDinoForObjectDetection(config),
        hf.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}),
        True,
    )


def owlv2():
    config = hf.Owlv2Config(
        text_config=TEXT | {"max_position_embeddings": 16},
        vision_config=TRANSFORMER
        | {"hidden_size": 16, "intermediate_size": 32, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    return hf.Owlv2ForObjectDetection(config), hf.Owlv2ImageProcessor(size=SQUARE), True


def mask2former():
    config = hf.Mask2FormerConfig(
        backbone_config=hf.SwinConfig(**SWIN, out_features=STAGES),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        **IDS,
    )
    return (
        hf.Mask2FormerForUniversalSegmentation(config),
        hf.Mask2FormerImageProcessor(size={"shortest_edge": 48, "longest_edge": 80}),
        False,
    )


def eomt():
    config = hf.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        num_blocks=1,
        num_queries=5,
        num_upscale_blocks=1,
        **IDS,
    )
    size = {"shortest_edge": SIDE, "longest_edge": SIDE}
    return hf.EomtForUniversalSegmentation(config), hf.EomtImageProcessor(size=size), False


def oneformer():
    config = hf.OneFormerConfig(
        backbone_config=hf.SwinConfig(**SWIN, out_features=STAGES),
        num_queries=5,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        query_dec_layers=1,
        num_attention_heads=2,
        task_seq_len=16,
        text_encoder_width=16,
        text_encoder_vocab_size=100,
        text_encoder_num_layers=1,
        text_encoder_context_length=16,
        text_encoder_n_ctx=2,
        **IDS,
    )
    processor = hf.OneFormerImageProcessor(size=SQUARE)
    return hf.OneFormerForUniversalSegmentation(config), processor, True


def segformer():
    config = hf.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **IDS,
    )
    model = hf.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(20)  # some birds, for one that was never trained
        model.decode_head.classifier.bias[1] = 0.7
    return model, hf.SegformerImageProcessor(size=SQUARE), False


SEGMENTERS = (sam3, clipseg, sam2, mask2former, eomt, oneformer, segformer)
DETECTORS = (grounding_dino, owlv2)


def saved_segmenter(make, folder, seed=0):
    """A folder with the model that `make` builds, larger weights than untrained ones, so that its
    outputs differ from image to image.
    """
    torch.manual_seed(seed)
    model, processor, is_asked_in_words = make()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and "position" not in name:
                weights.mul_(3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if is_asked_in_words:
        tokenizer().save_pretrained(folder)
    return Path(folder)
