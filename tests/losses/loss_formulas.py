"""Every loss as its formula written out in double precision, slowly and without the code under test."""

import math
from collections import Counter

import numpy as np
from safetensors.numpy import load_file

from segline.classes import IGNORED


def softmax(values):
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]
    return [power / sum(powers) for power in powers]


def counting_pixels(case):
    """Yield the image, row, column, probabilities and class of each valid pixel."""
    for i, y, x in np.argwhere(case.target.numpy() != IGNORED).tolist():
        yield i, y, x, softmax(case.logits[i, :, y, x].double().tolist()), int(case.target[i, y, x])


def mean(values):
    values = list(values)
    return sum(values) / max(len(values), 1)


def weighted_cross_entropy(case, weight):
    return mean(-weight(i, y, x, label) * math.log(p[label]) for i, y, x, p, label in counting_pixels(case))


def cross_entropy(case, *, class_weights=None):
    known = {case.task.names.index(name): weight for name, weight in (class_weights or {}).items()}
    total = sum(known.get(label, 1.0) for *_, label in counting_pixels(case))
    parts = [known.get(label, 1.0) * math.log(p[label]) for *_, p, label in counting_pixels(case)]
    return -sum(parts) / (total or 1)


def prevalence_weights(case, alpha_bg=None):
    labels = case.target[case.target != IGNORED].tolist()
    pixels = Counter(labels)
    weights = {label: len(labels) / (len(pixels) * count) for label, count in pixels.items()}
    if alpha_bg is not None and case.task.background in pixels:
        weights[case.task.background] = alpha_bg * pixels[case.task.background] / len(labels)
    return weights


def class_weight_schedule(case, *, alpha_bg=0.5):
    weights = prevalence_weights(case, alpha_bg)
    return weighted_cross_entropy(case, lambda i, y, x, label: weights[label])


def boxes(case):
    """Return the first and last row and column of each image's foreground."""
    actual, target = {}, case.target.numpy()
    for i, y, x in np.argwhere((target != IGNORED) & (target != case.task.background)):
        top, bottom, left, right = actual.get(i, (y, y, x, x))
        actual[i] = min(top, y), max(bottom, y), min(left, x), max(right, x)
    return actual


def bounding_box(case, *, beta_bg=0.05, class_weights=True, alpha_bg=0.5):
    weights, box = prevalence_weights(case, alpha_bg), boxes(case)

    def weight(i, y, x, label):
        top, bottom, left, right = box.get(i, (y, y, x, x))
        inside = top <= y <= bottom and left <= x <= right
        return (weights[label] if class_weights else 1) * (1 if inside else beta_bg)

    return weighted_cross_entropy(case, weight)


def dice(case, *, squared=False, smooth=1.0):
    pixels, classes = list(counting_pixels(case)), len(case.task.names)
    power = 2 if squared else 1
    total = 0.0
    for k in range(classes):
        overlap = sum(p[k] for *_, p, label in pixels if label == k)
        size = sum(p[k] ** power + (label == k) for *_, p, label in pixels)
        total += (2 * overlap + smooth) / (size + smooth)
    return 1 - total / classes


def jaccard_loss(truth, wrong):
    """Return the loss of a set of true pixels whose prediction is wrong at ``wrong``."""
    union = truth | wrong
    return 1 - len(truth - wrong) / len(union) if union else 0.0


def lovasz_of(pixels, classes, which):
    """Return the Lovász extension: sorted errors, each times the increase of the Jaccard loss with its pixel."""
    labels = {label for *_, label in pixels}
    chosen = labels if which == "present" else range(classes) if pixels else ()
    losses = []
    for k in chosen:
        truth = {place for place, (*_, label) in enumerate(pixels) if label == k}
        errors = [1 - p[k] if place in truth else p[k] for place, (*_, p, _) in enumerate(pixels)]
        wrong, total = set(), 0.0
        for place in sorted(range(len(pixels)), key=lambda place: -errors[place]):
            total += errors[place] * (jaccard_loss(truth, wrong | {place}) - jaccard_loss(truth, wrong))
            wrong.add(place)
        losses.append(total)
    return mean(losses)


def lovasz_softmax(case, *, per_image=False, classes="present"):
    pixels, count = list(counting_pixels(case)), len(case.task.names)
    if not per_image:
        return lovasz_of(pixels, count, classes)
    images = sorted({i for i, *_ in pixels})
    return mean(lovasz_of([pixel for pixel in pixels if pixel[0] == i], count, classes) for i in images)


def focal(case, *, gamma=2.0):
    return mean(-((1 - p[label]) ** gamma) * math.log(p[label]) for *_, p, label in counting_pixels(case))


def pooling_weights(losses, p, m):
    """Return the weights of the maximum, by bisection of the threshold."""
    q, n = p / (p - 1), len(losses)
    low, high = 0.0, max(losses) * n ** (1 / q)
    for _ in range(200):
        middle = (low + high) / 2
        sharing = sum(min(1, loss / middle) ** q for loss in losses)
        low, high = (middle, high) if sharing > m else (low, middle)
    return [n ** (-1 / q) * m ** (-1 / p) * min(1, loss / high) ** (q / p) for loss in losses]


def loss_max_pooling(case, *, p=1.7, share=0.3):
    losses = [-math.log(q[label]) for *_, q, label in counting_pixels(case)]
    m = max(1, round(share * len(losses)))
    if p == 1 or not any(losses):
        return mean(sorted(losses)[-m:])
    return sum(weight * loss for weight, loss in zip(pooling_weights(losses, p, m), losses, strict=True))


def distance_map(case, *, w0=10.0, sigma=5.0):
    border = case.maps["border"].double()
    return weighted_cross_entropy(
        case, lambda i, y, x, label: 1 + w0 * math.exp(-(float(border[i, 0, y, x]) ** 2) / (2 * sigma**2))
    )


def touching_border(case, *, w0=10.0, sigma=5.0):
    balance, sums = prevalence_weights(case), case.maps["touching"].double()
    return weighted_cross_entropy(
        case, lambda i, y, x, label: balance[label] + w0 * math.exp(-(float(sums[i, 0, y, x]) ** 2) / (2 * sigma**2))
    )


def boundary(case, *, foreground_only=False):
    signed = case.maps["signed"].double().numpy()
    left_out = case.task.background if foreground_only else None
    return mean(
        sum(p[k] * signed[i, k, y, x] for k in range(len(p)) if k != left_out)
        for i, y, x, p, _ in counting_pixels(case)
    )


def planes(case):
    """Return probabilities and truth per class, both zero where ignored."""
    predicted = np.zeros(case.logits.shape)
    truth = np.zeros(case.logits.shape)
    for i, y, x, p, label in counting_pixels(case):
        predicted[i, :, y, x] = p
        truth[i, label, y, x] = 1
    return predicted, truth


def convolve(masks, kernels, bias):
    """Convolve (b, c, h, w) with (d, c, 3, 3), with zeros outside."""
    padded = np.pad(masks, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = masks.shape[2:]
    total = np.zeros((len(masks), len(kernels), height, width)) + np.asarray(bias)[:, None, None]
    for dy in range(3):
        for dx in range(3):
            shifted = padded[:, :, dy : dy + height, dx : dx + width]
            total += np.einsum("bchw,dc->bdhw", shifted, kernels[:, :, dy, dx])
    return total


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def sobel(case, *, lambda_1=4.0):
    kernels = np.stack([SOBEL, SOBEL.T])[:, None]
    responses = [convolve(masks.reshape(-1, 1, *masks.shape[2:]), kernels, np.zeros(2)) for masks in planes(case)]
    edges = abs(responses[0] - responses[1]).sum() / max(len(list(counting_pixels(case))), 1)
    return cross_entropy(case) + lambda_1 / 8 * edges


def embeddings(masks, weights):
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    first = np.maximum(convolve(masks, weights["first.weight"], weights["first.bias"]), 0)
    second = np.maximum(convolve(first, weights["second.weight"], weights["second.bias"]), 0)
    third = np.exp(convolve(second, weights["third.weight"], weights["third.bias"]))
    return first, second, third / third.sum(1, keepdims=True)


def semeda(case, *, lambda_1=2.0, lambda_2=4.0, lambda_3=0.0):
    weights = load_file(case.task.prepared / "edge_network.safetensors")
    actual, wanted = (embeddings(masks, weights) for masks in planes(case))
    parts = zip((lambda_1, lambda_2, lambda_3), actual, wanted, strict=True)
    edges = sum(factor * abs(ours - theirs).sum() / ours.shape[1] for factor, ours, theirs in parts)
    return cross_entropy(case) + edges / max(len(list(counting_pixels(case))), 1)


LOOPS = {
    "boundary": boundary,
    "bounding_box": bounding_box,
    "class_weight_schedule": class_weight_schedule,
    "cross_entropy": cross_entropy,
    "dice": dice,
    "distance_map": distance_map,
    "focal": focal,
    "loss_max_pooling": loss_max_pooling,
    "lovasz_softmax": lovasz_softmax,
    "semeda": semeda,
    "sobel": sobel,
    "touching_border": touching_border,
}
