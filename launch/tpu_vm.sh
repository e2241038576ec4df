#!/usr/bin/env bash
# Trains on one TPU machine of Google Cloud: bash launch/tpu_vm.sh --workdir=DIR [options] [flags]
#
#   bash launch/tpu_vm.sh --workdir=runs/vgg --zone=us-west4-a --dataset=cifar10 --model=vgg16
#
#   --workdir=DIR      of the run, on the machine
#   --results=DIR      where its files are fetched to, here; default: runs/<last part of the workdir>
#   --name=NAME        of the machine; default: cnn-jax. One that is there is used again
#   --type=TYPE        default: v5litepod-1
#   --zone=ZONE, --project=ID   default: gcloud's own settings
#   --version=NAME     of the TPU software; default: v2-alpha-tpuv5-lite (v6e: v2-alpha-tpuv6e)
#   --spot             cheaper, may be taken away at any time; what is on its own disk is then lost
#   --keep             leave the machine (it costs money) when done
#   --help, --dry_run  this text; print every call of the cloud's tool, run none
#   other flags        go to experiments/train.py
#
# Needs gcloud, logged in, with a project that may use TPUs. Creates the machine or uses the one that is
# there, copies the checkout, installs, trains, fetches the results, deletes the machine. Exit code: the
# training's. Where results could not be fetched the machine is left, and the last line says so.
type=v5litepod-1 pod=false
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/tpu.sh"
