/*
 * libcuda.so.1 of a node without CUDA: enough for the container toolkit to find the "driver" and for a program
 * to be told plainly that there is no device to compute on.
 */
#define API __attribute__((visibility("default")))
#define CUDA_SUCCESS 0
#define CUDA_ERROR_NO_DEVICE 100

API int cuInit(unsigned flags)
{
    (void)flags;
    return CUDA_ERROR_NO_DEVICE;
}

API int cuDriverGetVersion(int *version)
{
    *version = SIM_CUDA_VERSION;
    return CUDA_SUCCESS;
}

API int cuDeviceGetCount(int *count)
{
    *count = 0;
    return CUDA_ERROR_NO_DEVICE;
}

API int cuGetErrorName(int error, const char **name)
{
    *name = error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return CUDA_SUCCESS;
}

API int cuGetErrorString(int error, const char **text)
{
    *text = error == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected (simulated GPU)" : "unknown error";
    return CUDA_SUCCESS;
}
