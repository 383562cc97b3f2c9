// Masks at two levels and a loss with its gradient, from a CASS server over gRPC in Go:
//
//	make && build/client localhost:50051 [SECONDS [EXPECTED]]
//
// A call may take SECONDS with all its tries. EXPECTED is a file of the numbers to compare with.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	cass "cass/v1"
	"google.golang.org/grpc"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func encoded(values []float32) []byte {
	var buffer bytes.Buffer
	check(binary.Write(&buffer, binary.LittleEndian, values))
	return buffer.Bytes()
}

func main() {
	seconds := "10"
	if len(os.Args) > 2 {
		seconds = os.Args[2]
	}
	timeout, err := time.ParseDuration(seconds + "s")
	check(err)
	unlimited := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)) // not 4 MiB
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure(), unlimited)
	check(err)
	service := cass.NewCassServiceClient(connection)

	// Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
	xyxy := []float32{100, 120, 140, 200, 300.5, 80, 420, 220, 600, 400, 660, 470}
	request := &cass.GenerateMaskRequest{
		Boxes:       &cass.BoxBatch{Xyxy: encoded(xyxy), Counts: []uint32{2, 1}},
		ImageSizes:  &cass.ImageSizes{Heights: []uint32{480}, Widths: []uint32{640}},
		FeatureMaps: []*cass.FeatureMap{{Height: 60, Width: 80}, {Height: 30, Width: 40}},
	}
	masks, err := call(timeout, service.GenerateMask, request)
	check(err)

	// Logits at stride 16, to be compared with a mask that the server makes from the same boxes.
	logits := make([]float32, 2*30*40)
	for i := range logits {
		logits[i] = float32(i%9)/4 - 1
	}
	tensor := &cass.Tensor{Dtype: cass.DataType_DATA_TYPE_FLOAT32, Shape: []uint32{2, 30, 40}}
	tensor.Data = encoded(logits)
	request.FeatureMaps = request.FeatureMaps[1:]
	loss, err := call(timeout, service.ComputeLoss, &cass.ComputeLossRequest{
		Logits:     tensor,
		Source:     &cass.ComputeLossRequest_Mask{Mask: request},
		LossSpec:   &cass.LossSpec{Reduction: cass.Reduction_REDUCTION_PER_OBJECT},
		ReturnGrad: true,
	})
	check(err)
	fmt.Println("loss", math.Float32frombits(binary.LittleEndian.Uint32(loss.Loss.Data)))
	if len(os.Args) > 3 {
		expected, err := os.ReadFile(os.Args[3])
		check(err)
		all := [][]byte{masks.Masks[0].Data, masks.Masks[1].Data, loss.Loss.Data, loss.Grad.Data}
		if !bytes.Equal(bytes.Join(all, nil), expected) {
			log.Fatal("other numbers than expected")
		}
		fmt.Println(len(expected)/4, "numbers as expected")
	}
}
