#!/usr/bin/env bash
# Trains on all machines of a TPU pod slice: bash launch/tpu_pod.sh --workdir=/DIR [options] [flags]
#
#   bash launch/tpu_pod.sh --workdir=/mnt/shared/vgg --zone=us-west4-a --type=v5litepod-16 --model=vgg16
#
# One process on every worker, which find each other by themselves. The workdir must be on a disk that
# all of them have mounted under the same path: checkpoints are written by all and read by all.
#
#   --workdir=DIR      of the run, on the machine
#   --results=DIR      where its files are fetched to, here; default: runs/<last part of the workdir>
#   --name=NAME        of the machine; default: cnn-jax. One that is there is used again
#   --type=TYPE        default: v5litepod-16
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
type=v5litepod-16 pod=true
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/tpu.sh"
